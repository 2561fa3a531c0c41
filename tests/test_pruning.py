"""`plan_prune` and `apply`: what is planned is deleted, and nothing else."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from helpers_pruning import DAY, JOB, POLICY, add, add_nights, deletes, ended, held

from vpsbackups_async import (
    ALL_SERVERS,
    AdaptiveLimiter,
    AuthenticationError,
    BackupsClient,
    NotFoundError,
    PrunePlan,
    Retention,
    ServerError,
    StalePlanError,
    from_json,
    to_json,
)
from vpsbackups_async.errors import PruneRefusedError
from vpsbackups_async.testing import (
    FakeVPS,
    HostileNext,
    Latency,
    NotJSON,
    Reply,
    SeenRequest,
    ServerFault,
)

pytestmark = [pytest.mark.fake_vps(servers=3, backups=0), pytest.mark.virtual_time]

Server = Callable[[FakeVPS], object]

BY_HAND = 900
"""The id of a backup that is not of the job."""


# --- Plans ---------------------------------------------------------------------------------------


async def test_a_plan_says_what_goes_and_what_stays_and_sends_only_gets(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4, size_mb=100)
    other = add(fake, 1, 9, description="By hand")
    add(fake, 1, 9, backup_type="automatic")
    plan = await client.plan_prune([1, 2, 1], POLICY)
    assert [server.server_id for server in plan.servers] == [1, 2]
    assert [one.id for one in plan.servers[0].deleted] == ids[:2]
    assert [one.id for one in plan.servers[0].kept] == [ids[3], ids[2], other]
    assert (plan.mb_freed, plan.servers[1].decisions) == (200, ())
    assert {seen.method for seen in fake.requests} == {"GET"}
    assert str(plan).splitlines()[:2] == [
        "Retention(last=2, job='nightly'): 2 go (200 MB), 3 stay, on 2 servers",
        "server 1: 2 go (200 MB), 3 stay",
    ]
    assert f"  delete {ids[0]} of 2025-01-12 15:45: no rule" in str(plan).splitlines()


async def test_a_plan_is_stored_as_json_and_applied_from_it(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4, note="kept as well")
    policy = Retention(within=timedelta(hours=30), job=JOB, tz="Europe/Berlin")
    plan = await client.plan_prune([1], policy)
    text = to_json(plan)
    assert from_json(PrunePlan, text) == plan
    older = text.replace(b',"problem_type":""', b"")
    assert (older == text, from_json(PrunePlan, older)) == (False, plan)
    outcomes = await ended(client.apply(from_json(PrunePlan, text)))
    assert outcomes == dict.fromkeys(ids[:2], "deleted")


@pytest.mark.parametrize(
    ("was", "wanted"),
    [
        (b'"last":2', b'"last":0'),
        (b'"P2D"', b'"2 days"'),
        (b'"P2D"', b"172800"),
        (b'"stacked":true', b'"stacked":1'),
        (b'"no_rule"', b'"none"'),
    ],
)
async def test_json_that_is_no_plan_is_refused(
    fake: FakeVPS, client: BackupsClient, was: bytes, wanted: bytes
) -> None:
    add_nights(fake, 1, 4)
    text = to_json(await client.plan_prune([1], POLICY))
    assert was in text
    with pytest.raises(ValueError, match="not the JSON of a PrunePlan"):
        from_json(PrunePlan, text.replace(was, wanted))


@pytest.mark.fake_vps(servers=60, backups=1)
async def test_the_plan_of_many_servers_reads_the_whole_list_where_that_is_cheaper(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 7, 4)
    plan = await client.plan_prune(ALL_SERVERS, POLICY)
    assert [one.id for one in plan.deleted] == ids[:2]
    assert sorted(server.server_id for server in plan.servers) == list(range(1, 61))
    assert fake.count("GET", "/backups/") == 2


@pytest.mark.fake_vps(servers=60, backups=1)
async def test_a_whole_list_that_cannot_be_read_gives_way_to_the_lists_of_the_servers(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 7, 4)
    fake.inject(ServerFault(500, query={"server_id": None}))
    plan = await client.plan_prune(range(1, 61), POLICY)
    assert [one.id for one in plan.deleted] == ids[:2]


@pytest.mark.fake_vps(servers=60, backups=0)
async def test_a_whole_list_that_never_holds_still_is_not_decided_by(
    fake: FakeVPS, client: BackupsClient
) -> None:
    for server_id in range(1, 61):
        add_nights(fake, server_id, 4)

    def move(seen: SeenRequest) -> None:
        if "page=2" in seen.target and "server_id" not in seen.query:
            fake.add_backup(60, description="By hand")

    fake.on_request = move
    plan = await client.plan_prune(range(1, 61), POLICY)
    assert fake.count("GET", "server_id=") == 60
    assert len(plan.deleted) == 120


async def test_a_server_whose_list_fails_or_is_cut_short_is_a_problem_of_its_own(
    fake: FakeVPS, client: BackupsClient
) -> None:
    for server_id in (1, 2, 3):
        add_nights(fake, server_id, 4)
    short = b'{"count": 9, "results": [], "next": null}'
    fake.inject(ServerFault(500, query={"server_id": 1}))
    fake.inject(Reply(200, short, query={"server_id": 2}))
    plan = await client.plan_prune([1, 2, 3], POLICY)
    assert [bool(server.problem) for server in plan.servers] == [True, True, False]
    kinds = [server.problem_type for server in plan.servers]
    assert kinds == ["ServerError", "PaginationError", ""]
    assert from_json(PrunePlan, to_json(plan)) == plan
    assert {one.server.id for one in plan.deleted} == {3}
    assert "server 1: nothing is deleted: 500" in str(plan)


async def test_a_policy_that_does_not_fit_into_the_quota_is_refused_for_that_server(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 5)
    add_nights(fake, 2, 5)
    add(fake, 1, 3, description="Golden [keep]")
    plan = await client.plan_prune([1, 2], Retention(last=9, job=JOB))
    assert "; last=8 fits" in plan.servers[0].problem
    assert plan.servers[1].problem == ""


@pytest.mark.parametrize("job", ["nightly2", "night", None])
async def test_a_label_that_nothing_bears_deletes_nothing(
    fake: FakeVPS, client: BackupsClient, job: str | None
) -> None:
    ids = add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], Retention(last=1, job=job))
    assert plan.deleted == ()
    assert len(plan.servers[0].kept) == len(ids)


async def test_a_refused_token_is_raised(fake: FakeVPS, client: BackupsClient) -> None:
    fake.revoke()
    with pytest.raises(AuthenticationError):
        await client.plan_prune([1, 2], POLICY)


async def test_pins_end_by_the_earlier_of_the_two_clocks(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 2)
    past = add(fake, 1, 5, description=f"Nightly [keep:2025-06-30] [job:{JOB}]")
    ours = datetime.now(UTC).date() + 2 * DAY
    pinned = add(fake, 1, 5, description=f"Nightly [keep:{ours}] [job:{JOB}]")
    plan = await client.plan_prune([1], POLICY)  # this machine's clock is ahead
    assert {past, pinned} <= {one.id for one in plan.servers[0].kept}
    fake.date_ahead = 100 * 365 * 86_400.0
    plan = await client.plan_prune([1], POLICY)
    assert [one.id for one in plan.deleted] == [past]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((7, POLICY), "server_ids must be"),
        ((None, POLICY), "server_ids must be"),
        (([1, 0], POLICY), "server_id must be"),
        (([1], None), "retention must be"),
    ],
)
async def test_bad_arguments_of_a_plan_are_refused_before_anything_is_sent(
    fake: FakeVPS, client: BackupsClient, arguments: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        await client.plan_prune(*arguments)
    assert fake.requests == []


# --- What refuses a plan as a whole --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_deletions": 3}, "4 backups were to be deleted, more than max_deletions=3"),
        ({"max_fraction": 0.4}, "2 of the 4 backups of server 1 were to be deleted"),
    ],
)
async def test_a_plan_that_deletes_more_than_allowed_is_refused_before_anything_goes(
    fake: FakeVPS, client: BackupsClient, options: dict[str, Any], words: str
) -> None:
    for server_id in (1, 2):
        add_nights(fake, server_id, 4)
        add_nights(fake, server_id, 4, job=None)  # these do not count
    plan = await client.plan_prune([1, 2], POLICY)
    with pytest.raises(PruneRefusedError, match=words):
        client.apply(plan, **options)
    assert deletes(fake) == []
    assert len(await ended(client.apply(plan, max_deletions=4, max_fraction=0.5))) == 4


def name_a_server_twice(plan: PrunePlan) -> PrunePlan:
    return evolve(plan, servers=(plan.servers[0], plan.servers[0]))


def give_a_server_those_of_another(plan: PrunePlan) -> PrunePlan:
    return evolve(plan, servers=(evolve(plan.servers[0], server_id=2),))


def name_a_backup_twice(plan: PrunePlan) -> PrunePlan:
    server = plan.servers[0]
    return evolve(
        plan, servers=(evolve(server, decisions=(*server.decisions, server.decisions[0])),)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (name_a_server_twice, "server 1 is in the plan twice"),
        (give_a_server_those_of_another, "backup 4 of server 1 is in the plan of server 2"),
        (name_a_backup_twice, "backup 4 is in the plan of server 1 twice"),
    ],
)
async def test_a_plan_that_mixes_up_servers_is_refused_before_anything_goes(
    fake: FakeVPS, client: BackupsClient, change: Callable[[PrunePlan], PrunePlan], words: str
) -> None:
    add_nights(fake, 1, 4)
    plan = change(await client.plan_prune([1], POLICY))
    with pytest.raises(PruneRefusedError, match=words):
        client.apply(plan, max_fraction=1)
    assert deletes(fake) == []


@pytest.mark.parametrize("age", [timedelta(hours=1, seconds=1), timedelta(minutes=-11)])
async def test_a_plan_that_is_too_old_or_of_the_future_is_refused(
    fake: FakeVPS, client: BackupsClient, age: timedelta
) -> None:
    add_nights(fake, 1, 4)
    plan = evolve(await client.plan_prune([1], POLICY), made_at=datetime.now(UTC) - age)
    with pytest.raises(StalePlanError, match="the plan is"):
        client.apply(plan)
    assert deletes(fake) == []


async def test_a_plan_that_was_made_at_a_time_without_a_zone_was_made_in_utc(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    naive = evolve(plan, made_at=plan.made_at.replace(tzinfo=None))
    assert await ended(client.apply(naive)) == dict.fromkeys(ids[:2], "deleted")


async def test_a_plan_that_grows_too_old_meanwhile_is_not_carried_on(
    fake: FakeVPS, client: BackupsClient
) -> None:
    for server_id in range(1, 4):
        add_nights(fake, server_id, 4)
    for server_id in range(4, 30):
        fake.add_server(server_id)
        add_nights(fake, server_id, 4)
    plan = await client.plan_prune(range(1, 30), POLICY)

    outcomes = client.apply(plan, max_age=timedelta(minutes=1))
    first = await anext(outcomes)
    assert first.ok

    await asyncio.sleep(61)
    rest = [outcome async for outcome in outcomes]
    assert {type(outcome.error) for outcome in rest} == {type(None), StalePlanError}
    assert len(rest) == 57


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plan": "all"}, "plan must be a PrunePlan"),
        ({"max_deletions": -1}, "max_deletions must be"),
        ({"max_deletions": True}, "max_deletions must be"),
        ({"max_fraction": 1.1}, "max_fraction must be 1 or less"),
        ({"max_fraction": -0.1}, "max_fraction must be a finite share"),
        ({"max_age": timedelta(0)}, "max_age must be"),
    ],
)
async def test_bad_arguments_of_apply_are_refused(
    client: BackupsClient, options: dict[str, Any], words: str
) -> None:
    plan = options.pop("plan", PrunePlan(POLICY, datetime.now(UTC), ()))
    with pytest.raises(ValueError, match=words):
        client.apply(plan, **options)


# --- What is deleted -----------------------------------------------------------------------------


async def test_what_is_planned_is_deleted_oldest_first_with_one_outcome_each(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 6)
    failed = add(fake, 1, 3.5, status="failed")
    plan = await client.plan_prune([1], POLICY)
    outcomes = [outcome async for outcome in client.apply(plan, max_fraction=1)]
    going = [*ids[:3], failed, ids[3]]
    assert [outcome.value.id for outcome in outcomes] == deletes(fake) == going
    assert held(fake, 1) == ids[4:]


async def test_a_second_prune_deletes_nothing(fake: FakeVPS, client: BackupsClient) -> None:
    add_nights(fake, 1, 4)
    await ended(client.apply(await client.plan_prune([1], POLICY)))
    assert (await client.plan_prune([1], POLICY)).deleted == ()


async def test_one_that_is_gone_already_is_done(fake: FakeVPS, client: BackupsClient) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    fake.remove_backup(ids[0])

    def race(seen: SeenRequest) -> None:
        if seen.method == "DELETE":
            fake.remove_backup(ids[1])

    fake.on_request = race
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "deleted")
    assert deletes(fake) == [ids[1]]


def lose_a_keeper(fake: FakeVPS) -> None:
    fake.remove_backup(held(fake, 1)[3])


def spoil_a_keeper(fake: FakeVPS) -> None:
    fake.finish(held(fake, 1)[3], "corrupt")


def lose_one_of_others(fake: FakeVPS) -> None:
    fake.remove_backup(BY_HAND)


def spoil_one_of_others(fake: FakeVPS) -> None:
    fake.finish(BY_HAND, "corrupt")


def empty_one_of_others(fake: FakeVPS) -> None:
    fake.remove_backup(BY_HAND)
    add(fake, 1, 30, description="By hand", id=BY_HAND, size_mb=0)


def reuse_an_id(fake: FakeVPS) -> None:
    doomed = held(fake, 1)[0]
    fake.remove_backup(doomed)
    add(fake, 1, 0, id=doomed)


def swap_for_another_old_one(fake: FakeVPS) -> None:
    doomed = held(fake, 1)[0]
    fake.remove_backup(doomed)
    add(fake, 1, 8, id=doomed)


def run_again(fake: FakeVPS) -> None:
    fake.finish(held(fake, 1)[0], "in_progress")


def pin(fake: FakeVPS) -> None:
    doomed = held(fake, 1)[0]
    fake.remove_backup(doomed)
    add(fake, 1, 4, id=doomed, description=f"Nightly [keep] [job:{JOB}]")


@pytest.mark.parametrize(
    "change",
    [
        lose_a_keeper,
        spoil_a_keeper,
        lose_one_of_others,
        spoil_one_of_others,
        empty_one_of_others,
        reuse_an_id,
        swap_for_another_old_one,
        run_again,
        pin,
    ],
)
async def test_a_server_that_changed_keeps_all_and_the_others_are_pruned(
    fake: FakeVPS, client: BackupsClient, change: Server
) -> None:
    ids, others = add_nights(fake, 1, 4), add_nights(fake, 2, 4)
    add(fake, 1, 30, description="By hand", id=BY_HAND)
    plan = await client.plan_prune([1, 2], POLICY)
    change(fake)
    outcomes = await ended(client.apply(plan))
    assert outcomes == dict.fromkeys(ids[:2], "StalePlanError") | dict.fromkeys(
        others[:2], "deleted"
    )
    assert deletes(fake) == others[:2]


async def test_a_new_backup_meanwhile_changes_nothing(fake: FakeVPS, client: BackupsClient) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    new = [add(fake, 1, 0), add(fake, 1, 0, status="in_progress")]
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "deleted")
    assert held(fake, 1) == [*ids[2:], *new]


async def test_a_plan_whose_reasons_were_tampered_with_deletes_nothing_that_the_policy_keeps(
    fake: FakeVPS, client: BackupsClient
) -> None:
    pinned = add(fake, 1, 9, description=f"Golden [keep] [job:{JOB}]")
    add_nights(fake, 1, 4)
    text = to_json(await client.plan_prune([1], POLICY)).replace(b'"pinned"', b'"no_rule"')
    outcomes = await ended(client.apply(from_json(PrunePlan, text), max_fraction=1))
    assert outcomes[pinned] == "StalePlanError"
    assert deletes(fake) == []


async def test_a_list_that_cannot_be_read_completely_before_deletes_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(HostileNext("http://evil.example/?page=2"))
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "PaginationError")
    assert deletes(fake) == []


async def test_a_list_that_is_not_complete_before_deletes_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    page = {"count": 3, "results": fake.backups, "next": None}
    fake.inject(Reply(200, json.dumps(page).encode(), method="GET"))
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "PaginationError")
    assert deletes(fake) == []


async def test_one_still_listed_ten_seconds_after_its_204_has_failed(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(Reply(204, method="DELETE", path=f"/{ids[0]}/"))
    began = fake.now
    outcomes = {outcome.key.id: outcome async for outcome in client.apply(plan)}
    assert "still listed 10 seconds after" in str(outcomes[ids[0]].error)
    assert outcomes[ids[1]].ok
    assert timedelta(seconds=10) <= fake.now - began < timedelta(seconds=11)


async def test_a_list_that_lags_behind_a_deletion_is_waited_for(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    before = {"count": 4, "results": fake.backups, "next": None}

    fake.inject(Reply(200, json.dumps(before).encode(), method="GET", times=3))
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "deleted")
    assert fake.count("GET") == 1 + 4


async def test_deletions_that_no_list_confirms_have_failed(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(ServerFault(500, method="GET", after=1))
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "ServerError")


async def test_a_404_of_a_proxy_is_no_deletion(fake: FakeVPS, client: BackupsClient) -> None:
    ids = add_nights(fake, 1, 3)
    fake.inject(NotJSON(404, method="DELETE"))
    [outcome] = [one async for one in client.apply(await client.plan_prune([1], POLICY))]
    assert isinstance(outcome.error, NotFoundError)
    assert held(fake, 1) == ids


async def test_a_404_of_a_proxy_frees_no_place(fake: FakeVPS, client: BackupsClient) -> None:
    ids = add_nights(fake, 1, 10)
    fake.inject(NotJSON(404, method="DELETE"))
    with pytest.raises(NotFoundError):
        await client.rotate(1, Retention(last=9, job=JOB), make_room=True)
    assert held(fake, 1) == ids


async def test_a_failed_deletion_does_not_stop_the_others(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(ServerFault(500, method="DELETE", path=f"/{ids[0]}/"))
    assert await ended(client.apply(plan)) == {ids[0]: "ServerError", ids[1]: "deleted"}


async def test_after_a_401_the_rest_is_not_attempted(fake: FakeVPS, client: BackupsClient) -> None:
    for server_id in range(4, 64):
        fake.add_server(server_id)
        add_nights(fake, server_id, 4)
    plan = await client.plan_prune(range(4, 64), POLICY)
    before = len(fake.requests)
    fake.inject(Reply(401, b'{"detail": "revoked"}', method="DELETE"))
    outcomes = await ended(client.apply(plan))
    assert len(outcomes) == 120
    assert set(outcomes.values()) == {"AuthenticationError", "NotAttemptedError"}
    assert len(fake.requests) - before <= 64
    assert all(len(held(fake, server_id)) == 4 for server_id in range(4, 64))


async def test_leaving_the_outcomes_early_stops_the_deletions(
    fake: FakeVPS, client: BackupsClient
) -> None:
    for server_id in range(4, 64):
        fake.add_server(server_id)
        add_nights(fake, server_id, 4)
    plan = await client.plan_prune(range(4, 64), POLICY)
    outcomes = client.apply(plan)
    await anext(outcomes)
    await outcomes.aclose()
    asked = len(deletes(fake))
    assert asked < 60


def retried(fake: FakeVPS) -> None:
    fake.inject(Reply(503, method="DELETE", times=1))


def refused_for_good(fake: FakeVPS) -> None:
    fake.inject(Reply(403, b"{}", method="DELETE", times=1))


def slow(fake: FakeVPS) -> None:
    fake.inject(Latency(5.5, method="DELETE", times=1))


@pytest.mark.parametrize("first", [retried, refused_for_good, slow])
async def test_the_server_is_read_again_after_a_deletion_that_took_more_than_one_quick_attempt(
    fake: FakeVPS, client: BackupsClient, first: Server
) -> None:
    ids = add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    first(fake)

    def lose(seen: SeenRequest) -> None:
        if seen.method == "DELETE" and ids[-1] in held(fake, 1):
            fake.remove_backup(ids[-1])

    fake.on_request = lose
    outcomes = await ended(client.apply(plan, max_fraction=1))
    assert outcomes[ids[1]] == outcomes[ids[2]] == "StalePlanError"
    assert set(deletes(fake)) == {ids[0]}


@pytest.mark.parametrize("change", [lose_a_keeper, pin, swap_for_another_old_one])
async def test_a_deletion_is_not_tried_again_where_the_server_changed_meanwhile(
    fake: FakeVPS, client: BackupsClient, change: Server
) -> None:
    ids = add_nights(fake, 1, 4)
    add(fake, 1, 30, description="By hand", id=BY_HAND)
    plan = await client.plan_prune([1], POLICY)
    retried(fake)

    def once(seen: SeenRequest) -> None:
        if seen.method == "DELETE" and len(deletes(fake)) == 1:
            change(fake)

    fake.on_request = once
    outcomes = {outcome.key.id: outcome.error async for outcome in client.apply(plan)}
    assert deletes(fake) == ids[:1]
    assert isinstance(outcomes[ids[0]], ServerError)
    assert "no further attempt: backup" in " ".join(outcomes[ids[0]].__notes__)
    assert isinstance(outcomes[ids[1]], StalePlanError)


async def test_a_deletion_is_tried_again_after_another_look(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    retried(fake)
    assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "deleted")
    methods = "".join(seen.method[0] for seen in fake.requests[1:])
    assert methods == "GDGDDG"


class HeldUp(AdaptiveLimiter):
    """Keeps each deletion waiting, as after a 429."""

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        if kind == "delete":
            await asyncio.sleep(40)
        await super().acquire(cost, kind)


@pytest.mark.parametrize("change", [lose_a_keeper, pin, swap_for_another_old_one])
async def test_a_deletion_that_stood_in_line_for_long_is_not_sent_where_the_server_changed(
    fake: FakeVPS, change: Server
) -> None:
    ids = add_nights(fake, 1, 4)
    add(fake, 1, 30, description="By hand", id=BY_HAND)
    async with BackupsClient(fake.token, base_url=fake.url, limiter=HeldUp()) as client:
        plan = await client.plan_prune([1], POLICY)
        asyncio.get_running_loop().call_later(20, change, fake)
        outcomes = {outcome.key.id: outcome.error async for outcome in client.apply(plan)}
    assert deletes(fake) == []
    assert isinstance(outcomes[ids[1]], StalePlanError)
    assert "no further attempt: backup" in " ".join(outcomes[ids[0]].__notes__)


async def test_a_deletion_that_stood_in_line_for_long_goes_after_another_look(
    fake: FakeVPS,
) -> None:
    ids = add_nights(fake, 1, 4)
    async with BackupsClient(fake.token, base_url=fake.url, limiter=HeldUp()) as client:
        plan = await client.plan_prune([1], POLICY)
        assert await ended(client.apply(plan)) == dict.fromkeys(ids[:2], "deleted")
        assert (client.stats.running, client.stats.waiting) == (0, 0)
    methods = "".join(seen.method[0] for seen in fake.requests[1:])
    assert methods == "GGD" + "GGD" + "G"


async def test_each_outcome_comes_once_it_is_known(fake: FakeVPS, client: BackupsClient) -> None:
    ids = add_nights(fake, 1, 7)
    plan = await client.plan_prune([1], POLICY)
    fake.remove_backup(ids[0])
    fake.inject(Reply(403, b"{}", method="DELETE", path=f"/{ids[1]}/"))
    fake.inject(Latency(6, method="DELETE", path=f"/{ids[2]}/"))
    fake.inject(Latency(2, method="DELETE", path=f"/{ids[3]}/"))
    fake.inject(Reply(204, method="DELETE", path=f"/{ids[4]}/"))
    began = fake.now
    came = {}
    async for outcome in client.apply(plan, max_fraction=1):
        came[outcome.key.id] = (outcome.ok, (fake.now - began) // timedelta(seconds=1))
    assert came == {
        ids[0]: (True, 0),
        ids[1]: (False, 0),
        ids[2]: (True, 6),
        ids[3]: (True, 8),
        ids[4]: (False, 18),
    }


async def test_a_subclass_that_deletes_in_its_own_way_is_asked(fake: FakeVPS) -> None:
    ids = add_nights(fake, 1, 4)

    class Careful(BackupsClient):
        asked: tuple[int, ...] = ()

        async def delete(self, backup_id: int, *, missing_ok: bool = False) -> None:
            self.asked = (*self.asked, backup_id)
            if backup_id == ids[1]:
                raise PermissionError("ask first")
            await super().delete(backup_id, missing_ok=missing_ok)

    async with Careful(fake.token, base_url=fake.url) as client:
        outcomes = await ended(client.apply(await client.plan_prune([1], POLICY)))
    assert client.asked == tuple(ids[:2])
    assert outcomes == {ids[0]: "deleted", ids[1]: "PermissionError"}


async def test_a_plan_that_grows_too_old_between_two_deletions_of_a_server_deletes_no_more(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(Latency(20, method="DELETE", times=1))
    outcomes = await ended(client.apply(plan, max_fraction=1, max_age=timedelta(seconds=15)))
    assert outcomes == {ids[0]: "deleted"} | dict.fromkeys(ids[1:3], "StalePlanError")


async def test_quick_deletions_go_by_one_look(fake: FakeVPS, client: BackupsClient) -> None:
    add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    before = fake.count("GET")
    await ended(client.apply(plan, max_fraction=1))
    assert fake.count("GET") - before == 2  # before the deletions, and after them


async def test_a_run_that_is_cancelled_logs_what_was_deleted_without_an_outcome(
    fake: FakeVPS, client: BackupsClient, caplog: pytest.LogCaptureFixture
) -> None:
    ids = add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(Latency(2, method="DELETE", path=f"/{ids[1]}/"))
    running = asyncio.create_task(ended(client.apply(plan, max_fraction=1)))
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.WARNING)
    assert f"said of {ids[0]}:1 that it deleted them, and may have deleted {ids[1]}:1" in line


async def test_outcomes_that_were_not_read_are_logged_and_those_that_were_are_not(
    fake: FakeVPS, client: BackupsClient, caplog: pytest.LogCaptureFixture
) -> None:
    ids = add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    outcomes = client.apply(plan, max_fraction=1)
    await anext(outcomes)
    await outcomes.aclose()
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.WARNING)
    assert f"said of {ids[1]}:1, {ids[2]}:1 that it deleted them, and may have deleted none" in line


async def test_a_run_that_ends_logs_nothing_and_a_refusal_is_no_deletion(
    fake: FakeVPS, client: BackupsClient, caplog: pytest.LogCaptureFixture
) -> None:
    add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    await ended(client.apply(plan, max_fraction=1))
    assert [one for one in caplog.records if one.levelno == logging.WARNING] == []

    others = add_nights(fake, 2, 4)
    plan = await client.plan_prune([2], POLICY)
    fake.inject(Reply(403, b"{}", method="DELETE", path=f"/{others[0]}/"))
    fake.inject(Latency(2, method="DELETE", path=f"/{others[1]}/"))
    running = asyncio.create_task(ended(client.apply(plan)))
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (line,) = (one.getMessage() for one in caplog.records if one.levelno == logging.WARNING)
    assert f"said of none that it deleted them, and may have deleted {others[1]}:2" in line


async def test_a_list_that_still_shows_a_deleted_one_does_not_stop_the_others(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 5)
    plan = await client.plan_prune([1], POLICY)
    lagging = [one | {"status": "deleting"} if one["id"] == ids[0] else one for one in fake.backups]
    page = json.dumps({"count": 5, "results": lagging, "next": None}).encode()
    slow(fake)

    def lag(seen: SeenRequest) -> None:
        if seen.method == "DELETE" and len(deletes(fake)) == 1:
            fake.inject(Reply(200, page, method="GET", times=1))

    fake.on_request = lag
    outcomes = await ended(client.apply(plan, max_fraction=1))
    assert outcomes == dict.fromkeys(ids[:3], "deleted")


async def test_a_run_that_is_cancelled_before_it_deletes_logs_nothing(
    fake: FakeVPS, client: BackupsClient, caplog: pytest.LogCaptureFixture
) -> None:
    add_nights(fake, 1, 4)
    plan = await client.plan_prune([1], POLICY)
    fake.inject(Latency(2, method="GET"))
    running = asyncio.create_task(ended(client.apply(plan)))
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [one for one in caplog.records if one.levelno == logging.WARNING] == []
