"""`fleet.rotate`: each server on its own; a process that is killed deletes nothing unverified."""

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import Any

import pytest
from helpers_creating import posts
from helpers_pruning import JOB, POLICY, add, add_nights, deletes, held

from vpsbackups_async import (
    ALL_SERVERS,
    BackupsClient,
    Progress,
    Retention,
    Rotation,
)
from vpsbackups_async.testing import FakeVPS, Reply, SeenRequest


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=5, backups=0, backup_seconds=60)
async def test_each_server_is_rotated_on_its_own(fake: FakeVPS, client: BackupsClient) -> None:
    ids = {server_id: add_nights(fake, server_id, 3) for server_id in (1, 2, 3, 4)}
    add_nights(fake, 4, 9)  # a limit is exceeded there
    fake.fails = lambda backup: backup["server"]["id"] == 2
    add(fake, 3, 9, description="By hand")
    outcomes = {
        outcome.key: outcome
        async for outcome in client.fleet(ALL_SERVERS).rotate(POLICY, description="Nightly")
    }
    errors = {key: type(outcome.error).__name__ for key, outcome in outcomes.items()}
    assert errors == {
        1: "NoneType",
        2: "BackupFailedError",
        3: "NoneType",
        4: "ManualBackupLimitError",
        5: "NoneType",
    }
    assert sorted(deletes(fake)) == sorted([*ids[1][:2], *ids[3][:2]])
    assert all(isinstance(outcomes[key].value, Rotation) for key in (1, 3, 5))


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=40, backups=0, backup_seconds=600)
async def test_a_server_takes_no_place_while_its_backup_runs(
    fake: FakeVPS, client: BackupsClient
) -> None:
    began = fake.now
    seen: list[Progress] = []
    rotated = client.fleet(range(1, 41), concurrency=2).rotate(POLICY, on_progress=seen.append)
    assert [outcome.ok async for outcome in rotated] == [True] * 40
    assert (fake.now - began).total_seconds() < 700
    assert seen[-1].ok == 40


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=4, backups=0, backup_seconds=60)
async def test_max_running_bounds_how_many_backups_run(
    fake: FakeVPS, client: BackupsClient
) -> None:
    running: list[int] = []

    def count(_: SeenRequest) -> None:
        running.append(sum(one["status"] == "in_progress" for one in fake.backups))

    fake.on_request = count
    outcomes = client.fleet(range(1, 5)).rotate(POLICY, max_running=1)
    assert [outcome.ok async for outcome in outcomes] == [True] * 4
    assert max(running) == 1


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=3, backups=0)
async def test_a_dry_run_over_a_fleet_sends_only_gets(fake: FakeVPS, client: BackupsClient) -> None:
    ids = add_nights(fake, 1, 3)
    outcomes = client.fleet([1, 2, 0]).rotate(POLICY, dry_run=True)
    said = {outcome.key: outcome async for outcome in outcomes}
    assert [one.id for one in said[1].value.deleted] == ids[:2]
    assert isinstance(said[0].error, ValueError)
    assert {seen.method for seen in fake.requests} == {"GET"}


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=40, backups=0)
async def test_after_a_401_nothing_more_is_started(fake: FakeVPS, client: BackupsClient) -> None:
    fake.inject(Reply(401, b'{"detail": "revoked"}', method="POST"))
    outcomes = client.fleet(range(1, 41), concurrency=2).rotate(POLICY)
    kinds = Counter([type(outcome.error).__name__ async for outcome in outcomes])
    assert set(kinds) == {"AuthenticationError", "NotAttemptedError"}
    assert len(posts(fake)) <= 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retention": Retention(last=2)}, "needs a retention with a job"),
        ({"max_running": 0}, "max_running must be"),
        ({"on_error": "ignore"}, "on_error must be"),
    ],
)
async def test_bad_arguments_are_refused_at_once(
    fake: FakeVPS, client: BackupsClient, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        client.fleet([1]).rotate(**{"retention": POLICY, **options})
    assert fake.requests == []


# --- A process that is killed --------------------------------------------------------------------


def verified(fake: FakeVPS, server_id: int, new: set[int]) -> bool:
    """Whether a new backup of this server has completed and stands in its list."""
    return any(
        one["status"] == "completed" and one["id"] in new and one["server"]["id"] == server_id
        for one in fake.backups
    )


FORKED = f"""
import asyncio, os, sys
from vpsbackups_async import BackupsClient, ConstantBackoff, Retention

async def main(server_ids):
    async with BackupsClient() as client:
        policy = Retention(last=6, job={JOB!r})
        fleet = client.fleet(server_ids)
        async for _ in fleet.rotate(policy, make_room=True, backoff=ConstantBackoff(0.01)):
            pass

for line in sys.stdin:
    child = os.fork()
    if not child:
        asyncio.run(main(list(map(int, line.split()))))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Killed:
    """A rotation of two full servers and of one with free places, killed at its n-th request.

    The backup of the second server fails.
    """

    def __init__(self, fake: FakeVPS, first: int, number: int) -> None:
        self._fake = fake
        self._number = number
        self.full, self.failing, self.spare = self.server_ids = range(first, first + 3)
        self.old: dict[int, list[int]] = {}
        for server_id, nights in zip(self.server_ids, (10, 10, 8), strict=True):
            fake.add_server(server_id)
            self.old[server_id] = add_nights(fake, server_id, nights)
        fake.fails = lambda backup: backup["server"]["id"] == self.failing
        self._seen = 0
        self.unverified: list[int] = []
        self.pid = 0
        fake.on_request = self._watch

    def _watch(self, seen: SeenRequest) -> None:
        if seen.method == "DELETE":
            doomed = deletes(self._fake)[-1]
            server_id = next(one for one, ids in self.old.items() if doomed in ids)
            new = set(held(self._fake, server_id)) - set(self.old[server_id])
            if not verified(self._fake, server_id, new):
                self.unverified.append(doomed)
        self._seen += 1
        if self._seen >= self._number and self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.pid = 0


@pytest.mark.fake_vps(servers=0, backups=0, backup_seconds=0.02, virtual_time=False)
async def test_a_rotation_killed_anywhere_deleted_nothing_unverified_but_what_made_room(
    fake: FakeVPS,
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", FORKED),
        env=os.environ | {"VPS_API_TOKEN": fake.token, "VPS_API_URL": fake.url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    status, number = signal.SIGKILL.value, 0
    while status == signal.SIGKILL:
        number += 1
        run = Killed(fake, 10 * number, number)
        process.stdin.write(" ".join(map(str, run.server_ids)).encode() + b"\n")
        run.pid = int(await process.stdout.readline())
        status = int(await process.stdout.readline())
        run.pid = 0
        left = {server_id: held(fake, server_id) for server_id in run.server_ids}
        assert set(run.unverified) <= {run.old[run.full][0], run.old[run.failing][0]}
        assert set(run.old[run.failing][1:]) <= set(left[run.failing])
        assert all(set(run.old[server_id][-5:]) <= set(left[server_id]) for server_id in left)
    assert status == 0
    assert number > 25
    process.stdin.close()
    assert await process.wait() == 0
