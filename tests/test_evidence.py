"""Which backups a create without an answer may have made, by what is known of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from vpsbackups_async import Backup, BackupStatus, BackupType, ServerRef
from vpsbackups_async._creating.evidence import SentCreate, Verdict, clock_offset, judge

NOON = datetime(2025, 1, 16, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SENT = SentCreate(1, "Nightly", None, frozenset({3}), read_before=False, sent_at=(NOON,))
BACKUP = Backup(
    7,
    ServerRef(1, "one"),
    BackupType.MANUAL,
    BackupStatus.IN_PROGRESS,
    None,
    NOON,
    None,
    "Nightly",
)
DONE, FAILED = BackupStatus.COMPLETED, BackupStatus("failed")


def kind_of(verdict: Verdict) -> str:
    """The only list that has the backup, "nothing" if none has."""
    held = {name for name in ("certain", "likely", "possible") if getattr(verdict, name)}
    assert len(held) <= 1
    return held.pop() if held else "nothing"


def verdict(sent: SentCreate, *backups: Backup, given: tuple[int, ...] = ()) -> Verdict:
    return judge(sent, backups, lambda backup_id: backup_id in given)


MARKED = SENT._replace(description="Nightly [vb:12ab]", marker="12ab")
COPIED = SENT._replace(description="Nightly [vb:12ab]")
JOB = SENT._replace(description="Nightly [job:web]")
READ = SENT._replace(read_before=True)
AHEAD = SENT._replace(clock_offset=3600.0)
TWICE = SENT._replace(sent_at=(NOON, NOON + 5 * MINUTE))
TIMELESS = SENT._replace(sent_at=())


@pytest.mark.parametrize(
    ("sent", "changes", "expected"),
    [
        # Not its own, whatever else speaks for it.
        (SENT, {"id": 3}, "nothing"),
        (SENT, {"server": ServerRef(2, "two")}, "nothing"),
        (SENT, {"backup_type": BackupType.AUTOMATIC}, "nothing"),
        (SENT, {"description": "Nightly [vb:9999]"}, "nothing"),
        (MARKED, {"description": "Nightly [vb:9999]"}, "nothing"),
        (READ, {"id": 3}, "nothing"),
        (MARKED, {"id": 3, "description": "Nightly [vb:12ab]"}, "nothing"),
        # By marker, at any time and with any text before it.
        (MARKED, {"description": "Nightly [vb:12ab]"}, "certain"),
        (MARKED, {"description": "Night [vb:12ab]"}, "certain"),
        (MARKED, {"description": "Nightly [vb:12ab]", "created_at": NOON + 90 * MINUTE}, "certain"),
        (MARKED, {"description": "NIGHTLY [VB:12AB]"}, "certain"),
        (MARKED, {}, "possible"),
        # A marker that was not asked for, but stands in the description, tells nothing.
        (COPIED, {"description": "Nightly [vb:12ab]"}, "likely"),
        (
            COPIED,
            {"description": "Nightly [vb:12ab]", "created_at": NOON - 90 * MINUTE},
            "possible",
        ),
        # By a complete read before.
        (READ, {}, "certain"),
        (READ, {"created_at": NOON - 90 * MINUTE}, "certain"),
        (READ, {"created_at": NOON + 11 * MINUTE}, "possible"),
        (READ._replace(clock_offset=3600.0), {"created_at": NOON + 70 * MINUTE}, "certain"),
        (READ._replace(clock_offset=-3600.0), {"created_at": NOON}, "possible"),
        (READ._replace(sent_at=()), {}, "possible"),
        (READ, {"description": "another"}, "possible"),
        (MARKED._replace(read_before=True), {}, "possible"),
        # By description and time.
        (SENT, {}, "likely"),
        (SENT, {"id": 1}, "likely"),
        (SENT, {"description": " Nightly "}, "likely"),
        (SENT, {"description": "Nightly [job:web]"}, "likely"),
        (SENT._replace(description=" Nightly [keep]"), {}, "likely"),
        (JOB, {}, "likely"),
        (JOB, {"description": "Nightly [job:WEB]"}, "likely"),
        (JOB, {"description": "Nightly [job:db]"}, "possible"),
        (SENT, {"status": DONE}, "likely"),
        (SENT, {"status": FAILED}, "likely"),
        (SENT, {"created_at": NOON - 10 * MINUTE}, "likely"),
        (SENT, {"created_at": NOON + 10 * MINUTE}, "likely"),
        (SENT, {"created_at": NOON - 11 * MINUTE}, "possible"),
        (SENT, {"created_at": NOON + 11 * MINUTE}, "possible"),
        (AHEAD, {"created_at": NOON + 65 * MINUTE}, "likely"),
        (AHEAD, {"created_at": NOON + 5 * MINUTE}, "likely"),
        (AHEAD, {"created_at": NOON + 30 * MINUTE}, "possible"),
        (TWICE, {"created_at": NOON + 14 * MINUTE}, "likely"),
        (TIMELESS, {}, "possible"),
        # Possible until it is old and ended.
        (SENT, {"description": "another"}, "possible"),
        (SENT, {"description": "another", "status": DONE}, "possible"),
        (
            SENT,
            {"description": "another", "status": DONE, "created_at": NOON - 10 * MINUTE},
            "possible",
        ),
        (SENT, {"created_at": NOON - 11 * MINUTE, "status": DONE}, "nothing"),
        (SENT, {"created_at": NOON - 11 * MINUTE, "status": FAILED}, "nothing"),
        (SENT, {"created_at": NOON - 11 * MINUTE, "status": BackupStatus("paused")}, "possible"),
        (AHEAD, {"created_at": NOON + 30 * MINUTE, "status": DONE}, "possible"),
        (AHEAD, {"created_at": NOON - 11 * MINUTE, "status": DONE}, "nothing"),
        (TIMELESS, {"created_at": NOON - 90 * MINUTE, "status": DONE}, "possible"),
    ],
)
def test_each_backup_is_judged_by_what_speaks_for_it(
    sent: SentCreate, changes: dict[str, Any], expected: str
) -> None:
    assert kind_of(verdict(sent, evolve(BACKUP, **changes))) == expected


@pytest.mark.parametrize("sent", [SENT, READ, MARKED])
def test_what_another_create_was_given_is_nothing(sent: SentCreate) -> None:
    assert verdict(sent, evolve(BACKUP, description=sent.description), given=(7,)) == Verdict()


def test_a_single_certain_or_likely_backup_is_the_answer_and_several_are_not() -> None:
    other = evolve(BACKUP, id=8)
    foreign = evolve(BACKUP, id=9, description="another")
    assert verdict(SENT, BACKUP, foreign).answer == BACKUP
    assert verdict(READ, foreign, BACKUP).answer == BACKUP
    for sent in (SENT, READ):
        told = verdict(sent, BACKUP, other, foreign)
        assert told.answer is None
        assert told.several
        assert told.candidates == (BACKUP, other, foreign)
    assert verdict(SENT, foreign).answer is None
    assert not verdict(SENT, foreign).several


def test_a_marker_beats_a_likeness() -> None:
    ours = evolve(BACKUP, id=8, description=MARKED.description)
    told = verdict(MARKED, BACKUP, ours)
    assert told.answer == ours
    assert told.candidates == (ours, BACKUP)


@pytest.mark.parametrize(
    ("server_time", "offset"),
    [
        (None, None),
        (NOON, 0.0),
        (NOON + timedelta(hours=1), 3600.0),
        (NOON - timedelta(days=800), -800 * 86_400.0),
        (datetime(9999, 12, 31, tzinfo=UTC), None),
        (datetime(1, 1, 1, tzinfo=UTC), None),
    ],
)
def test_a_date_that_is_nonsense_tells_no_offset(
    server_time: datetime | None, offset: float | None
) -> None:
    assert clock_offset(server_time, NOON) == offset
