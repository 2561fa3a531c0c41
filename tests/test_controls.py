"""Controls over a coverage: passed or failed, with evidence."""

import json
from datetime import timedelta
from typing import Any

import pytest
from helpers_retention import NOW, backup

from vpsbackups_async import Backup, ServerError
from vpsbackups_async.audit import Control, Coverage, Kept, NewestYounger, Reach, check, cover

DAY = timedelta(days=1)


def ago(days: float, status: str = "completed", **changes: Any) -> Backup:
    return backup(NOW - timedelta(days=days), status=status, **changes)


def coverage(**lists: Any) -> Coverage:
    """The coverage of servers whose ids are the digits of the names."""
    read = {int(name[1:]): backups for name, backups in lists.items()}
    return cover(dict.fromkeys(read), read, NOW, rpo=DAY)


@pytest.mark.parametrize(
    ("control", "passing", "failing"),
    [
        (NewestYounger(DAY), [ago(1), ago(9)], [ago(1.01), ago(0.1, "failed")]),
        (NewestYounger(DAY), [ago(0)], []),
        (Kept(2), [ago(1), ago(2)], [ago(1), ago(2, "failed"), ago(3, "in_progress")]),
        (Kept(1), [ago(1)], [ago(-1), ago(0.1, "in_progress")]),
        (Reach(7 * DAY), [ago(1), ago(7)], [ago(1), ago(6.9), ago(8, "failed")]),
        (Reach(7 * DAY), [ago(8)], []),
    ],
)
def test_only_good_backups_count_for_a_control(
    control: Control, passing: list[Backup], failing: list[Backup]
) -> None:
    [result] = check(coverage(s1=passing), [control])
    assert (result.passed, result.failed) == (True, ())
    [result] = check(coverage(s1=passing, s2=failing), [control])
    assert not result.passed
    assert [one.server_id for one in result.failed] == [2]
    assert [one.server_id for one in result.evidence] == [2, 1]


def test_a_server_that_could_not_be_read_fails_every_control() -> None:
    found = coverage(s1=[ago(0), ago(9)], s2=ServerError(503, detail="down"))
    for result in check(found, [NewestYounger(DAY), Kept(1), Reach(DAY)]):
        [failed] = result.failed
        assert failed.server_id == 2
        assert "down" in failed.found


def test_no_control_passes_over_no_servers() -> None:
    assert [one.passed for one in check(coverage(), [Kept(1)])] == [False]


def test_the_evidence_names_the_backup_and_its_age() -> None:
    found = coverage(s1=[ago(0.5, id=7), ago(3, id=5)])
    evidence = [
        one.evidence[0].found for one in check(found, [NewestYounger(DAY), Kept(3), Reach(DAY)])
    ]
    assert evidence == [
        "backup 7 of 2026-11-29T00:00:00Z, 12 hours old",
        "2 good backups",
        "backup 5 of 2026-11-26T12:00:00Z, 3 days old",
    ]


def test_a_result_is_json_with_its_parameters_in_words() -> None:
    [result] = check(coverage(s1=[]), [NewestYounger(timedelta(hours=36))])
    assert json.loads(json.dumps(result.as_dict())) == {
        "control": "the newest good backup is at most 36 hours old",
        "passed": False,
        "failed": 1,
        "evidence": [{"server_id": 1, "name": "", "passed": False, "found": "no good backup"}],
    }


@pytest.mark.parametrize("make", [NewestYounger, Reach, Kept])
@pytest.mark.parametrize("value", [0, -1, None, timedelta(0)])
def test_a_control_without_a_sensible_parameter_is_refused(make: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make(value)
