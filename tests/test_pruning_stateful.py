"""Whatever happens between a plan and its application, nothing is deleted that was not planned."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

from helpers_pruning import JOB, deletes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from vpsbackups_async import BackupsClient, ConstantBackoff, PrunePlan, Retention, RetryPolicy
from vpsbackups_async.errors import PruneRefusedError
from vpsbackups_async.testing import Drop, FakeVPS, Reply, SeenRequest, VirtualTime

T = TypeVar("T")
Facts = tuple[int, int, str, str, str]

SERVERS = (1, 2)
JOBS = ["", f"[job:{JOB}]", "[job:weekly]", f"[keep] [job:{JOB}]", f"[keep:2025-01-20] [job:{JOB}]"]
STATUSES = ["completed", "completed", "completed", "failed", "in_progress", "queued"]
POLICIES = [
    Retention(last=1, quota=99, job=JOB),
    Retention(last=2, daily=2, quota=99, job=JOB),
    Retention(daily=2, weekly=1, quota=99, job=JOB, stacked=False),
    Retention(within=timedelta(days=2), quota=99, job=JOB),
]

servers = st.sampled_from(SERVERS)
numbers = st.integers(0, 30)
made = st.tuples(servers, st.sampled_from(JOBS), st.sampled_from(STATUSES), st.integers(0, 120))


def facts(backup: dict[str, Any]) -> Facts:
    """What tells a backup from another one that was given its id later."""
    server_id = backup["server"]["id"]
    return backup["id"], server_id, backup["created_at"], backup["status"], backup["description"]


class Pruning(RuleBasedStateMachine):
    """Two servers, on which others work too, and one plan at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.plan: PrunePlan | None = None
        self.planned: set[Facts] = set()
        self.deleted: list[Facts] = []
        self.race: dict[int, Callable[[], None]] = {}
        self.is_raced = False
        self.run(self.open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def open(self) -> None:
        self.time = VirtualTime()
        self.time.__enter__()
        self.fake = FakeVPS(servers=2, quota=100)
        await self.fake.start()
        retry = RetryPolicy(attempts=2, backoff=ConstantBackoff(0))
        self.client = BackupsClient(self.fake.token, base_url=self.fake.url, retry=retry)
        self.fake.on_request = self.watch

    def teardown(self) -> None:
        self.run(self.close())
        self.runner.close()

    async def close(self) -> None:
        await self.client.close()
        await self.fake.stop()
        self.time.__exit__(None, None, None)

    def watch(self, seen: SeenRequest) -> None:
        """Note what is deleted, and let others act where a race is planned."""
        if seen.method == "DELETE":
            doomed = deletes(self.fake)[-1]
            self.deleted += [facts(one) for one in self.fake.backups if one["id"] == doomed]
        if act := self.race.pop(len(self.fake.requests), None):
            self.is_raced = True
            act()

    # --- What others do --------------------------------------------------------------------------

    @initialize(backups=st.lists(made, max_size=6), policy=st.sampled_from(POLICIES))
    def begin(self, backups: list[tuple[int, str, str, int]], policy: Retention) -> None:
        nights = [
            (server_id, JOBS[1], "completed", 20 * n) for n in range(6) for server_id in SERVERS
        ]
        for one in [*nights, *backups]:
            self.make(one)
        self.make_a_plan(policy)

    @rule(one=made)
    def make(self, one: tuple[int, str, str, int]) -> None:
        server_id, job, status, hours = one
        at = self.fake.now - timedelta(hours=hours)
        self.fake.add_backup(server_id, created_at=at, description=f"x {job}", status=status)

    def chosen(self, number: int) -> dict[str, Any] | None:
        """A backup, more often one that the plan deletes."""
        going = {one.id for one in self.plan.deleted} if self.plan is not None else set()
        there = [one for one in self.fake.backups if number % 2 or one["id"] in going]
        number //= 2
        return there[number % len(there)] if there else None

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        if one := self.chosen(number):
            self.fake.remove_backup(one["id"])

    @rule(number=numbers, status=st.sampled_from(STATUSES))
    def change(self, number: int, status: str) -> None:
        if one := self.chosen(number):
            self.fake.finish(one["id"], status)

    @rule(number=numbers, one=made)
    def give_the_id_to_another(self, number: int, one: tuple[int, str, str, int]) -> None:
        if old := self.chosen(number):
            self.fake.remove_backup(old["id"])
            at = self.fake.now - timedelta(hours=one[3])
            self.fake.add_backup(
                one[0], id=old["id"], created_at=at, description=f"y {one[1]}", status=one[2]
            )

    @rule(hours=st.integers(1, 60))
    def time_passes(self, hours: int) -> None:
        self.fake.advance(hours * 3600.0)

    # --- What we do ------------------------------------------------------------------------------

    @rule(policy=st.sampled_from(POLICIES))
    def make_a_plan(self, policy: Retention) -> None:
        self.plan = self.run(self.client.plan_prune(SERVERS, policy))
        going = {one.id for one in self.plan.deleted}
        self.planned = {facts(one) for one in self.fake.backups if one["id"] in going}

    @precondition(lambda self: self.plan is not None)
    @rule(
        at=st.none() | st.integers(1, 6),
        number=numbers,
        one=made,
        failing=st.sets(st.integers(0, 3)),
        times=st.integers(1, 2),
    )
    def carry_it_out(
        self,
        at: int | None,
        number: int,
        one: tuple[int, str, str, int],
        failing: set[int],
        times: int,
    ) -> None:
        """With `at`, others act in the midst, when that request has come.

        Those of the `failing` deletions fail, or lose their answer, and are tried again. The plan
        is carried out so many `times` at once.
        """
        if at is not None:
            acts = [lambda: self.make(one), lambda: self.remove(number)]
            self.race = {len(self.fake.requests) + at: acts[number % 2]}
        self.fake.clear_faults()
        for after in failing:
            where: dict[str, Any] = {"method": "DELETE", "after": after, "times": 1}
            self.fake.inject(Drop("after", **where) if after % 2 else Reply(503, **where))
        before = self.guarded(self.plan)
        self.deleted, self.is_raced = [], False
        self.run(self.apply(times))
        assert set(self.deleted) <= self.planned
        assert len(self.deleted) - len(set(self.deleted)) <= len(failing)
        left = {facts(one) for one in self.fake.backups}
        if not self.is_raced:
            assert before <= left
        self.race = {}

    def guarded(self, plan: PrunePlan | None) -> set[Facts]:
        """What no plan may delete now: the newest good ones, pins, and all that is of others."""
        assert plan is not None
        there = self.fake.backups
        own = [one for one in there if one["description"].endswith(f"[job:{JOB}]")]
        good = [one for one in own if one["status"] == "completed" and self.is_past(one)]
        kept = [one for one in there if one not in own or "[keep]" in one["description"]]
        kept += [one for one in own if one["status"] in {"in_progress", "queued"}]
        for server_id in SERVERS:
            here = [
                one
                for one in good
                if one["server"]["id"] == server_id and "[keep" not in one["description"]
            ]
            kept += sorted(here, key=lambda one: (one["created_at"], one["id"]))[-1:]
        return {facts(one) for one in kept}

    def is_past(self, backup: dict[str, Any]) -> bool:
        return datetime.fromisoformat(backup["created_at"]) <= self.fake.now

    async def apply(self, times: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(self.apply_once())

    async def apply_once(self) -> None:
        assert self.plan is not None
        try:
            outcomes = self.client.apply(self.plan, max_fraction=0.9)
        except PruneRefusedError:
            return
        keys = [outcome.key.id async for outcome in outcomes]
        assert sorted(keys) == sorted(one.id for one in self.plan.deleted)


TestPruning = Pruning.TestCase
TestPruning.settings = settings(max_examples=100, stateful_step_count=12)
