"""The state of each server in an audit, by its backups alone."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from helpers_retention import NOW, backup
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import Backup, Server, ServerError
from vpsbackups_async.audit import Coverage, ServerCoverage, State, cover

DAY = timedelta(days=1)


def ago(hours: float, status: str = "completed", **changes: Any) -> Backup:
    """A backup of server 1 that was made that many hours before `NOW`."""
    return backup(NOW - timedelta(hours=hours), status=status, **changes)


def covered(*backups: Backup, **options: Any) -> ServerCoverage:
    [one] = cover({1: None}, {1: backups}, NOW, **{"rpo": DAY, **options}).servers
    return one


CASES: dict[str, tuple[State, Sequence[Backup]]] = {
    "good within the rpo": (State.OK, [ago(23.9), ago(48)]),
    "good exactly at the rpo": (State.OK, [ago(24)]),
    "good beyond the rpo": (State.STALE, [ago(24.01)]),
    "no backup at all": (State.NEVER, []),
    "a word in another case": (State.OK, [ago(1, "COMPLETED")]),
    "failed after a good one within the rpo": (State.OK, [ago(1, "failed"), ago(20)]),
    "failed after a good one beyond the rpo": (State.FAILING, [ago(1, "failed"), ago(25)]),
    "failed, and never a good one": (State.FAILING, [ago(1, "ERROR"), ago(30, "failed")]),
    "failed before the newest good one": (State.STALE, [ago(25), ago(49, "failed")]),
    "runs after one that failed": (State.RUNNING, [ago(0.1, "in_progress"), ago(9, "failed")]),
    "failed after one that runs": (State.FAILING, [ago(0.1, "failed"), ago(0.2, "in_progress")]),
    "runs, and the last good one is stale": (State.RUNNING, [ago(1, "in_progress"), ago(30)]),
    "runs, and never a good one": (State.RUNNING, [ago(5.9, "In_Progress")]),
    "runs beside a recent one": (State.OK, [ago(1, "in_progress"), ago(20)]),
    "in progress for too long": (State.STUCK, [ago(6, "in_progress"), ago(30)]),
    "in progress for too long beside a recent one": (State.STUCK, [ago(1), ago(50, "IN_PROGRESS")]),
    "an unknown status lately": (State.RUNNING, [ago(1, "queued"), ago(30)]),
    "an unknown status long ago": (State.STALE, [ago(25, "archived"), ago(30)]),
    "only an unknown status long ago": (State.NEVER, [ago(25, "archived")]),
    "only good ones from the future": (State.UNKNOWN, [ago(-1)]),
    "a good one from the future and an old one": (State.STALE, [ago(-1), ago(30)]),
    "a good one ahead by less than the clocks differ": (State.OK, [ago(-0.1)]),
    "running from the future": (State.NEVER, [ago(-1, "in_progress")]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_the_state_of_a_server_follows_from_its_backups(case: str) -> None:
    state, backups = CASES[case]
    assert covered(*backups).state is state
    assert covered(*reversed(backups)).state is state


def test_slack_is_for_a_backup_that_is_late_and_not_for_one_that_failed() -> None:
    hour = timedelta(hours=1)
    assert covered(ago(25), slack=hour).state is State.OK
    assert covered(ago(25.01), slack=hour).state is State.STALE
    assert covered(ago(0.5, "failed"), ago(24.5), slack=hour).state is State.FAILING
    assert covered(ago(0.5, "failed"), ago(23.5), slack=hour).state is State.OK


@pytest.mark.parametrize("backups", [[ago(1), ago(2, "in_progress")], []], ids=["some", "none"])
def test_a_server_whose_list_failed_is_unknown_and_says_why(backups: list[Backup]) -> None:
    error = ServerError(503, detail="down for maintenance")
    lists: dict[int, Any] = {1: error, 2: backups}
    found = {one.server_id: one for one in cover({1: None, 2: None}, lists, NOW, rpo=DAY).servers}
    assert found[1].state is State.UNKNOWN
    assert "down for maintenance" in found[1].problem
    assert found[1].age is None
    assert found[2].state is not State.UNKNOWN


def test_a_server_that_was_not_read_is_unknown_and_not_never() -> None:
    [one] = cover({1: None}, {}, NOW, rpo=DAY).servers
    assert (one.state, one.problem) == (State.UNKNOWN, "its list was not read")


def test_stuck_and_future_backups_are_named_and_failures_since_the_good_one_counted() -> None:
    one = covered(
        ago(-1, id=1), ago(1, "failed", id=2), ago(7, "in_progress", id=3), ago(8, "failed", id=4),
        ago(30, id=5), ago(31, "failed", id=6),
    )  # fmt: skip
    assert (one.from_the_future, one.stuck, one.failed_since) == ((1,), (3,), 2)
    assert (one.age, one.last_success) == (timedelta(hours=30), NOW - timedelta(hours=30))


def test_sizes_growth_slots_pins_and_the_next_expiry_are_told() -> None:
    soon, later = NOW + DAY, NOW + 2 * DAY
    one = covered(
        ago(1, size_mb=1300, description="Before the move [keep]"),
        ago(2, "failed", description="[keep:2026-11-28]"),
        ago(25, size_mb=900, kind="automatic", expires_at=later),
        ago(49, size_mb=1100, kind="automatic", expires_at=soon),
    )
    assert (one.slots_used, one.pinned, one.next_expiry) == (2, 1, soon)
    assert (one.size_mb, one.total_mb, one.growth_mb_a_day) == (1300, 3300, 100.0)
    empty = covered()
    assert (empty.slots_used, empty.size_mb, empty.total_mb, empty.growth_mb_a_day) == (
        0, None, None, None,
    )  # fmt: skip


def test_two_backups_of_the_same_moment_show_no_growth() -> None:
    assert covered(ago(1, size_mb=1), ago(1, size_mb=9)).growth_mb_a_day is None


def some_servers() -> Coverage:
    lists: dict[int, Any] = {
        1: [ago(1)], 2: [ago(40)], 3: [], 4: [ago(90)], 5: ServerError(500),
        6: [ago(1, "failed")], 7: [ago(9, "in_progress")], 8: [ago(1, "in_progress")],
    }  # fmt: skip
    servers = {number: Server(number, f"web-{number}", status="stopped") for number in lists}
    return cover(servers, lists, NOW, rpo=DAY)


def test_the_worst_servers_come_first_and_the_oldest_of_a_state() -> None:
    found = some_servers()
    assert [one.server_id for one in found.servers] == [3, 6, 7, 4, 2, 5, 8, 1]
    assert found.counts == dict.fromkeys(State, 1) | {State.STALE: 2}
    assert {(one.name[:4], one.server_status) for one in found.servers} == {("web-", "stopped")}


@pytest.mark.parametrize("bad", [[], [ago(30)], [ago(1, "in_progress")]])
def test_a_coverage_is_ok_only_if_every_server_is(bad: list[Backup]) -> None:
    assert cover({1: None}, {1: [ago(1)]}, NOW, rpo=DAY).ok
    assert not cover({1: None, 2: None}, {1: [ago(1)], 2: bad}, NOW, rpo=DAY).ok
    assert not cover({}, {}, NOW, rpo=DAY).ok


def test_the_json_has_every_server_with_ages_in_seconds_and_no_missing_number() -> None:
    read = json.loads(some_servers().to_json())
    assert (read["ok"], read["at"], read["rpo_seconds"]) == (False, "2026-11-29T12:00:00Z", 86400.0)
    by_id = {one["server_id"]: one for one in read["servers"]}
    assert by_id[2]["age_seconds"] == 40 * 3600.0
    assert by_id[2]["last_success"] == "2026-11-27T20:00:00Z"
    assert by_id[3]["age_seconds"] is None
    assert by_id[5]["slots_used"] is None
    assert by_id[5]["problem"]


@given(
    st.lists(
        st.tuples(
            st.floats(-48, 200), st.sampled_from(["completed", "failed", "in_progress", "odd"])
        ),
        max_size=12,
    )
)
def test_no_server_is_ok_without_a_good_backup_within_the_rpo(
    made: list[tuple[float, str]],
) -> None:
    one = covered(*(ago(hours, status) for hours, status in made))
    recent = any(status == "completed" and -1 / 6 <= hours <= 24 for hours, status in made)
    stuck = any(status == "in_progress" and hours >= 6 for hours, status in made)
    assert (one.state is State.OK) == (recent and not stuck)
