"""The frozen values: what they say about themselves, and that they survive pickling and copying."""

import copy
import pickle
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from attrs import NOTHING, asdict, evolve, field, fields, frozen, make_class
from attrs.exceptions import FrozenInstanceError

from vpsbackups_async import (
    Account,
    Attempt,
    Backup,
    BackupRef,
    BackupStatus,
    BackupType,
    ClientStats,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    ExponentialBackoff,
    NotFoundError,
    Observation,
    Outcome,
    Page,
    Progress,
    RateLimitStatus,
    Restore,
    RetryPolicy,
    Server,
    ServerRef,
    Sweep,
    Timeouts,
)
from vpsbackups_async._values import Value
from vpsbackups_async.models import DetailedBackup, DetailedServerRef

WHEN = datetime(2025, 1, 16, 3, tzinfo=UTC)
BACKUP = Backup(
    501,
    ServerRef(12345, "web-server-01"),
    BackupType.AUTOMATIC,
    BackupStatus.COMPLETED,
    4523,
    WHEN,
    datetime(2025, 2, 16, 3, tzinfo=UTC),
    "Automatic daily backup",
)
ODD = DetailedBackup(
    502,
    ServerRef(7, ""),
    BackupType("weekly"),
    BackupStatus("paused"),
    None,
    WHEN,
    None,
    "",
    "Backup is being created.",
    {"zone": ["eu", {"x": None}]},
)
MORE = DetailedServerRef(7, "x", {"region": "eu"})
VALUES = [
    BACKUP,
    ODD,
    MORE,
    ServerRef(1, "a"),
    BackupRef(501, 12345),
    BackupRef(501),
    Page((BACKUP, ODD), 2, "?page=2", "?page=1"),
    Sweep((BACKUP, ODD), True, 2, 3, 4, 5),
    Restore(12345, 501, 202, "Started.", {"job": [1]}),
    Outcome(12345, BACKUP),
    Attempt(3, 1.5, 0.5, ODD),
    ConstantBackoff(2.5),
    ExponentialBackoff(1.5, 3.0, 40.0, 0.25),
    DecorrelatedJitterBackoff(1.5, 40.0),
    Timeouts(1.0, 2.0, 3.0, 4.0),
    RetryPolicy(2, ConstantBackoff(1), 3.0, None),
    Observation("create", 1, 429, 5.0, 0.25),
    ClientStats(1, 2, 3, 4),
]


def pickled(value: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


COPIES = [
    *[
        pytest.param(partial(pickled, protocol=protocol), id=f"pickle{protocol}")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ],
    pytest.param(copy.copy, id="copy"),
    pytest.param(copy.deepcopy, id="deepcopy"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("copied", COPIES)
def test_every_value_survives_pickling_and_copying(value: Any, copied: Any) -> None:
    again = copied(value)
    assert type(again) is type(value)
    assert again == value
    assert repr(again) == repr(value)
    for part in fields(type(value)):
        before, after = getattr(value, part.name), getattr(again, part.name)
        assert (type(after), after) == (type(before), before)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_is_frozen(value: Any) -> None:
    name = fields(type(value))[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)
    with pytest.raises(FrozenInstanceError):
        delattr(value, name)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        value.something_else = 1


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_can_be_a_key_and_prints_its_fields(value: Any) -> None:
    assert hash(value) == hash(copy.copy(value))
    assert all(f"{part.name}=" in repr(value) for part in fields(type(value)))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_can_be_evolved_and_taken_apart(value: Any) -> None:
    assert evolve(value) == value
    assert set(asdict(value)) == {part.name for part in fields(type(value))}


def test_a_listed_backup_has_no_message_and_nothing_extra() -> None:
    assert BACKUP.message is None
    assert BACKUP.extra == {}


def test_a_backup_with_more_fields_is_a_backup_and_shows_them() -> None:
    assert isinstance(ODD, Backup)
    assert ODD.message == "Backup is being created."
    assert ODD.extra == {"zone": ["eu", {"x": None}]}


def test_a_server_may_have_more_fields() -> None:
    assert BACKUP.server.extra == {}
    assert MORE.extra == {"region": "eu"}
    assert isinstance(MORE, ServerRef)
    assert isinstance(evolve(BACKUP, server=MORE).server, ServerRef)


def test_a_backup_gives_the_two_integers_that_find_it_again() -> None:
    assert BACKUP.ref == BackupRef(501, 12345)


def test_only_a_manual_backup_counts_as_manual() -> None:
    assert not BACKUP.is_manual
    assert evolve(BACKUP, backup_type=BackupType.MANUAL).is_manual
    assert not evolve(BACKUP, backup_type=BackupType("Manual-ish")).is_manual


@pytest.mark.parametrize(
    ("text", "completed", "failed", "known"),
    [
        ("completed", True, False, True),
        ("in_progress", False, False, True),
        ("failed", False, True, True),
        ("Completed", True, False, False),
        ("COMPLETED", True, False, False),
        ("FAILED", False, True, False),
        ("failure", False, True, False),
        ("error", False, True, False),
        ("Errored", False, True, False),
        ("cancelled", False, True, False),
        ("canceled", False, True, False),
        ("aborted", False, True, False),
        ("paused", False, False, False),
        ("", False, False, False),
        ("IN_PROGRESS", False, False, False),
        ("__members__", False, False, False),
    ],
)
def test_a_status_knows_how_it_ended_and_whether_it_is_known(
    text: str, completed: bool, failed: bool, known: bool
) -> None:
    status = BackupStatus(text)
    assert (status.is_completed, status.is_failed, status.is_known) == (completed, failed, known)
    backup = evolve(BACKUP, status=status)
    assert (backup.is_completed, backup.is_failed) == (completed, failed)


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "\r", "\u202e", "'", "\x00"])
def test_an_unknown_text_is_escaped_where_it_is_shown(text: str) -> None:
    for kind in (BackupStatus, BackupType):
        assert repr(kind(text)) == f"<{kind.__name__}: {text!r}>"
    backup = evolve(BACKUP, status=BackupStatus(text), server=ServerRef(1, text))
    assert repr(backup).isprintable()
    assert repr(BackupStatus.FAILED) == "<BackupStatus.FAILED: 'failed'>"


@pytest.mark.parametrize("kind", [BackupStatus, BackupType])
@pytest.mark.parametrize("text", ["paused", "COMPLETED", "MANUAL", "", "yn mynd \N{SNOWMAN}"])
def test_an_unknown_text_is_a_member_of_its_own_that_keeps_the_text(
    kind: type[BackupStatus] | type[BackupType], text: str
) -> None:
    member = kind(text)
    assert type(member) is kind
    assert member == member.value == member.name == str(member) == f"{member}" == text
    assert hash(member) == hash(text)
    assert {member: 1}[kind(text)] == 1
    assert not member.is_known
    assert text in repr(member)
    assert member not in list(kind)
    again = pickle.loads(pickle.dumps(member))
    assert (type(again), again, again.is_known) == (kind, text, False)


@pytest.mark.parametrize("kind", [BackupStatus, BackupType])
@pytest.mark.parametrize("value", [5, None, b"completed", ["completed"]])
def test_what_is_no_text_is_no_member(kind: Any, value: object) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        kind(value)


def test_a_known_text_is_the_one_member() -> None:
    assert BackupStatus("completed") is BackupStatus.COMPLETED
    assert BackupType("manual") is BackupType.MANUAL
    assert all(member.is_known for member in [*BackupStatus, *BackupType])
    assert pickle.loads(pickle.dumps(BackupStatus.FAILED)) is BackupStatus.FAILED


def test_an_outcome_with_a_value_is_ok_and_unwraps_to_it() -> None:
    outcome: Outcome[int, Backup] = Outcome(5, BACKUP)
    assert outcome.ok
    assert outcome.error is None
    assert outcome.unwrap() is BACKUP


def test_an_outcome_whose_value_is_none_is_ok() -> None:
    outcome: Outcome[int, None] = Outcome(5, None)
    assert outcome.ok
    outcome.unwrap()


def test_an_outcome_with_an_error_raises_it() -> None:
    error = NotFoundError(404, "Not found.")
    outcome: Outcome[int, Backup] = Outcome(5, error=error)
    assert not outcome.ok
    with pytest.raises(NotFoundError) as caught:
        outcome.unwrap()
    assert caught.value is error


@pytest.mark.parametrize("copied", COPIES)
def test_an_outcome_with_an_error_survives_pickling_and_copying(copied: Any) -> None:
    again = copied(Outcome(5, error=NotFoundError(404, "Not found.", method="GET")))
    assert (again.key, again.value, again.ok) == (5, None, False)
    assert type(again.error) is NotFoundError
    assert again.error.args == NotFoundError(404, "Not found.", method="GET").args


@frozen(eq=False, repr=False)
class Noted(Value):
    """A value with a field that neither counts nor shows."""

    number: int
    note: str = field(default="", eq=False, repr=False)


def attrs_own(kind: type) -> type:
    """A class with the same name and fields whose `==`, hash and repr attrs has written."""
    own = {
        one.name: field(default=NOTHING, repr=one.repr, eq=one.eq, hash=one.hash)
        for one in fields(kind)
    }
    return make_class(kind.__name__, own, frozen=True)


@pytest.mark.parametrize(
    "value",
    [
        Server(7, "web", created_at=WHEN, extra={"plan": "s"}),
        Account("a@example.com", permissions=("read",), extra={"id": 1}),
        Restore(7, 501, 202, "started", {"ok": True}),
        Page((1, 2), 2, "https://example.com/?page=2"),
        Page((float("nan"),)),
        Sweep((1,), complete=True),
        Progress(1, 1, 0, 2, None, 0.5),
        ClientStats(requests=3),
        RateLimitStatus(10, 3, 1.5),
        Observation("list", 1, 429, 2.0),
        RetryPolicy(attempts=2),
        Timeouts(connect=1.0),
        Attempt(1, 0.5, None, None),
        ConstantBackoff(2.0),
        ExponentialBackoff(1.0, maximum=3.0),
        DecorrelatedJitterBackoff(),
        Noted(1, "x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_compare_hash_and_show_as_attrs_own_do(value: Any) -> None:
    own = attrs_own(type(value))
    values = {one.name: getattr(value, one.name) for one in fields(type(value))}
    twin = own(**values)
    assert repr(value) == repr(twin)
    assert (value == copy.copy(value)) is (twin == own(**values))
    assert value != twin
    assert twin != value
    assert (value.__eq__(twin), value.__ne__(7)) == (NotImplemented, NotImplemented)
    assert hash(value) == hash(copy.copy(value))
    for one in fields(type(value)):
        changed = copy.copy(value)
        object.__setattr__(changed, one.name, "something else")
        other = own(**values | {one.name: "something else"})
        assert (changed == value) is (other == twin)
        assert (hash(changed) == hash(value)) is (hash(other) == hash(twin))
