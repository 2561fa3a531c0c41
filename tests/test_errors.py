"""The error tree: what each error knows and prints, and that it survives pickling and copying."""

import copy
import inspect
import pickle
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

import vpsbackups_async
from vpsbackups_async import (
    ApiError,
    AuthenticationError,
    Backup,
    BackupDisappearedError,
    BackupFailedError,
    BackupInProgressError,
    BackupNeverAppearedError,
    BackupRef,
    BackupStatus,
    BackupType,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    FleetError,
    InvalidResponseError,
    ManualBackupLimitError,
    NotAttemptedError,
    NotFoundError,
    Outcome,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    ServerError,
    ServerRef,
    StalePlanError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WaitError,
    WaitTimeoutError,
    WrongEventLoopError,
)
from vpsbackups_async.errors import (
    DatabaseError,
    NotInListError,
    NotRestorableError,
    PruneRefusedError,
    RunError,
    WorkerStoppedError,
)

BACKUP = Backup(
    501,
    ServerRef(12345, "web-server-01"),
    BackupType.MANUAL,
    BackupStatus("on_hold"),
    None,
    datetime(2025, 1, 16, 3, tzinfo=UTC),
    None,
    "Nightly",
)
PATH = "/api/v1/backups/501/"
MESSAGE: dict[str, Any] = {}
TRANSPORT: dict[str, Any] = {"sent": False, "method": "GET", "path": PATH, "attempts": 3}
API: dict[str, Any] = {
    "status": 418,
    "detail": "Out of coffee.",
    "field_errors": {"server_id": ["No.", "Never."]},
    "request_id": "req-7",
    "method": "DELETE",
    "path": PATH,
    "attempts": 3,
    "retry_after": 12.5,
}
WAIT: dict[str, Any] = {
    "ref": BackupRef(501, 12345),
    "last_status": BackupStatus("on_hold"),
    "elapsed": 61.5,
    "reason": "it went wrong",
}
API_SHOWN = [
    *["418", "Out of coffee", "server_id: No. Never.", f"DELETE {PATH}", "attempt 3"],
    *["req-7", "12.5 s"],
]
TRANSPORT_SHOWN = ["it broke", f"GET {PATH}", "attempt 3", "nothing was sent"]
WAIT_SHOWN = ["501", "12345", "'on_hold'", "61.5 s", "it went wrong"]

# Every error with all of its fields set to something that is not their default, and what it shows.
TABLE: list[tuple[type[VPSBackupsError], dict[str, Any], list[str]]] = [
    (TransportError, {"message": "it broke", **TRANSPORT}, TRANSPORT_SHOWN),
    (RequestTimeoutError, {"message": "it broke", **TRANSPORT}, TRANSPORT_SHOWN),
    (
        UnexpectedRedirectError,
        {"message": "it broke", **TRANSPORT, "location": "https://other/"},
        TRANSPORT_SHOWN,
    ),
    (ResponseTooLargeError, {"message": "it broke", **TRANSPORT}, TRANSPORT_SHOWN),
    (
        DeadlineExceededError,
        {"message": "it broke", **TRANSPORT, "sent": True},
        ["it broke", f"GET {PATH}", "attempt 3", "it may have reached the server"],
    ),
    *[
        (kind, API, API_SHOWN)
        for kind in (
            ApiError,
            BadRequestError,
            ManualBackupLimitError,
            AuthenticationError,
            PermissionDeniedError,
            NotFoundError,
            ConflictError,
            BackupInProgressError,
            RateLimitedError,
            ServerError,
        )
    ],
    (
        InvalidResponseError,
        {
            "reason": "expected int",
            "place": "results[3].id",
            "status": 203,
            "method": "GET",
            "path": PATH,
            "request_id": "req-7",
        },
        ["expected int", "at results[3].id", "203", f"GET {PATH}", "req-7"],
    ),
    (
        PaginationError,
        {"message": "it goes in circles", "url": "?page=2"},
        ["it goes in circles", "'?page=2'"],
    ),
    (WaitError, WAIT, WAIT_SHOWN),
    (BackupFailedError, {**WAIT, "backup": BACKUP}, WAIT_SHOWN),
    (BackupDisappearedError, {**WAIT, "last_seen": BACKUP}, WAIT_SHOWN),
    (BackupNeverAppearedError, WAIT, WAIT_SHOWN),
    (WaitTimeoutError, WAIT, WAIT_SHOWN),
    (
        CreateOutcomeUnknownError,
        {
            "candidates": (BACKUP,),
            "server_id": 12345,
            "description": "Nightly [vb:16]",
            "reason": "it broke",
            "known_ids": frozenset({499, 500}),
            "marker": "16",
            "sent_at": (datetime(2025, 1, 16, 15, 45, tzinfo=UTC),),
            "read_before": True,
            "clock_offset": -2.5,
            "clock_age": 14.0,
        },
        ["server 12345", "backup 501", "it broke"],
    ),
    (
        FleetError,
        {"failures": (Outcome(7, error=NotFoundError(404, "No such server.")),)},
        ["1 of the servers", "7: 404 No such server."],
    ),
]
PLAIN = [
    VPSBackupsError,
    ConfigurationError,
    WrongEventLoopError,
    NotAttemptedError,
    StalePlanError,
]
MADE = [
    *[pytest.param(kind(**said), said, shown, id=kind.__name__) for kind, said, shown in TABLE],
    *[
        pytest.param(kind("it broke"), {}, ["it broke"], id=kind.__name__)
        for kind in [*PLAIN, PruneRefusedError, RunError, WorkerStoppedError, DatabaseError]
    ],
]
SAYS_ITSELF = {VPSBackupsError, ConfigurationError}
"""Their messages say what to do: there is no one thing to do next."""


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


def public_errors() -> set[type[VPSBackupsError]]:
    return {
        value
        for value in (getattr(vpsbackups_async, name) for name in vpsbackups_async.__all__)
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def test_the_tables_here_hold_every_public_error() -> None:
    assert {kind for kind, _, _ in TABLE} | set(PLAIN) == public_errors()


@pytest.mark.parametrize(("kind", "said", "_"), TABLE, ids=[kind.__name__ for kind, _, _ in TABLE])
def test_the_table_sets_every_field_to_something_else_than_its_default(
    kind: type[VPSBackupsError], said: dict[str, Any], _: list[str]
) -> None:
    parameters = inspect.signature(kind).parameters
    assert list(parameters) == list(said)
    for name, value in said.items():
        assert value != parameters[name].default


def known(value: Any) -> Any:
    """The value, or for an error, which is equal only to itself, all that is in it."""
    if isinstance(value, BaseException):
        return type(value), known(value.args), known(vars(value)), str(value)
    if isinstance(value, Outcome):
        return Outcome, value.key, value.value, known(value.error)
    if isinstance(value, tuple | list):
        return type(value), [known(part) for part in value]
    if isinstance(value, dict):
        return {name: known(part) for name, part in value.items()}
    return type(value), value


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize(("error", "said", "_"), MADE)
def test_every_error_survives_pickling_and_copying_with_all_its_fields(
    error: VPSBackupsError, said: dict[str, Any], _: list[str], copied: Any
) -> None:
    again = copied(error)
    assert again is not error
    assert type(again) is type(error)
    assert known(again) == known(error)
    assert str(again) == str(error)
    for name, value in said.items():
        assert known(getattr(again, name)) == known(value)


@pytest.mark.parametrize(("error", "said", "_"), MADE)
def test_every_field_is_an_attribute_and_an_argument(
    error: VPSBackupsError, said: dict[str, Any], _: list[str]
) -> None:
    for name, value in said.items():
        assert getattr(error, name) == value
    if said:
        assert error.args == tuple(said.values())
    assert repr(error).startswith(f"{type(error).__name__}(")


@pytest.mark.parametrize(("error", "_", "shown"), MADE)
def test_every_error_prints_as_one_line_of_what_is_known_and_what_to_do_next(
    error: VPSBackupsError, _: dict[str, Any], shown: list[str]
) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1
    assert [part for part in shown if part not in text] == []
    if type(error) not in SAYS_ITSELF:
        assert len(error.hint) > 10
        assert text.endswith(f". {error.hint}")


def test_every_public_error_says_what_it_means_in_a_docstring_of_its_own() -> None:
    for kind in public_errors():
        assert vars(kind)["__doc__"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (VPSBackupsError(), "VPSBackupsError"),
        (StalePlanError(), "StalePlanError. Make a new plan and look at it again"),
        (ConfigurationError("set it"), "set it"),
        (TransportError("it broke"), "it broke (a request; it may have reached the server). Check"),
        (ApiError(500), "500 without a reason (a request). If "),
        (ApiError(500, "Oh.", method="GET"), "500 Oh. (GET). If "),
        (ApiError(400, field_errors={"a": []}), "400 a:  (a request). If "),
        (InvalidResponseError("no"), "no (status 200 to a request). Nothing"),
        (PaginationError("lost"), "lost. Do not"),
        (PaginationError("lost", ""), "lost: ''. Do not"),
        (
            WaitError(BackupRef(5)),
            "backup 5: WaitError (never seen, after 0.0 s). Wait",
        ),
        (
            WaitTimeoutError(BackupRef(5, 6)),
            "backup 5 of server 6: it was not completed in time (never seen, after 0.0 s). It may",
        ),
        (
            BackupFailedError(BackupRef(5, 6), BackupStatus.FAILED, 0.04),
            "backup 5 of server 6: the backup failed (last seen 'failed', after 0.0 s). This",
        ),
        (CreateOutcomeUnknownError(), "it is not known whether a backup was made. Do not"),
        (FleetError(()), "0 of the servers failed (). Mend"),
        (NotAttemptedError("the token was refused."), "the token was refused. Mend what"),
    ],
)
def test_an_error_prints_well_with_little_known(error: VPSBackupsError, text: str) -> None:
    assert str(error).startswith(text)


def test_a_fleet_error_shows_the_first_few_and_counts_the_rest() -> None:
    failures = [Outcome(number, error=ServerError(500, f"E{number}")) for number in range(1, 6)]
    text = str(FleetError(failures))
    assert text.startswith("5 of the servers failed (1: 500 E1 ")
    assert "3: 500 E3" in text
    assert "E4" not in text
    assert "; and 2 more)" in text


def test_several_candidates_are_all_named() -> None:
    assert "it may be backup 501, 501" in str(CreateOutcomeUnknownError([BACKUP, BACKUP], 5))


HOSTILE = "a\r\nb\u2028c\x1b[31m\x00\ud800\x85\u202e" + "x" * 5_000


@pytest.mark.parametrize(
    "error",
    [
        VPSBackupsError(HOSTILE),
        TransportError(HOSTILE),
        ApiError(500, HOSTILE),
        ApiError(500, "", {HOSTILE: [HOSTILE]}, HOSTILE),
        InvalidResponseError(HOSTILE, HOSTILE),
        PaginationError(HOSTILE, HOSTILE),
        WaitError(BackupRef(5), BackupStatus(HOSTILE), 1.0, HOSTILE),
        CreateOutcomeUnknownError((), 5, None, HOSTILE),
        FleetError([Outcome(number, error=ServerError(500, HOSTILE)) for number in range(9)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_servers_words_cannot_break_the_line_nor_reach_the_terminal_raw(
    error: VPSBackupsError,
) -> None:
    text = str(error)
    assert text.isprintable()
    assert len(text.encode()) < 1_300
    assert text.endswith(error.hint)
    assert "a b c" in text or "\\n" in text


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        *[(kind, VPSBackupsError) for kind in sorted(public_errors(), key=str)],
        (VPSBackupsError, Exception),
        (RequestTimeoutError, TransportError),
        (RequestTimeoutError, TimeoutError),
        (UnexpectedRedirectError, TransportError),
        (ResponseTooLargeError, TransportError),
        (DeadlineExceededError, TimeoutError),
        (BadRequestError, ApiError),
        (ManualBackupLimitError, BadRequestError),
        (AuthenticationError, ApiError),
        (PermissionDeniedError, ApiError),
        (NotFoundError, ApiError),
        (ConflictError, ApiError),
        (BackupInProgressError, ConflictError),
        (RateLimitedError, ApiError),
        (ServerError, ApiError),
        (BackupFailedError, WaitError),
        (BackupDisappearedError, WaitError),
        (BackupNeverAppearedError, WaitError),
        (WaitTimeoutError, WaitError),
        (WaitTimeoutError, TimeoutError),
    ],
)
def test_the_tree_has_one_root_and_timeouts_are_timeouts(
    kind: type[Exception], base: type[Exception]
) -> None:
    assert issubclass(kind, base)


def test_only_timeouts_are_os_errors() -> None:
    assert {kind for kind in public_errors() if issubclass(kind, OSError)} == {
        RequestTimeoutError,
        DeadlineExceededError,
        WaitTimeoutError,
    }


@pytest.mark.parametrize("said", [("it broke",), ("it broke", True), ("it broke", True, "GET")])
def test_a_timeout_never_reads_its_fields_as_an_errno(said: tuple[Any, ...]) -> None:
    for kind in (RequestTimeoutError, DeadlineExceededError):
        error = kind(*said)
        assert (error.errno, error.strerror, error.filename) == (None, None, None)
        assert error.message == "it broke"
        assert len(error.args) == 5
        assert pickle.loads(pickle.dumps(error)).args == error.args


def test_the_mapping_given_as_field_errors_is_not_shared() -> None:
    given = {"a": ["1"]}
    error = ApiError(400, field_errors=given)
    given["a"].append("2")
    given["b"] = []
    assert error.field_errors == {"a": ["1"]}


def test_notes_survive_pickling() -> None:
    error = ServerError(503)
    error.add_note("not sent again")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["not sent again"]


def test_an_error_can_be_made_again_as_a_closer_kind_from_its_arguments() -> None:
    refusal = BadRequestError(**{**API, "status": 400})
    closer = ManualBackupLimitError(*refusal.args)
    assert {**vars(closer)} == {**vars(refusal)}
    assert closer.args == refusal.args


def test_each_error_has_the_status_with_which_a_web_handler_passes_it_on() -> None:
    kinds = [getattr(vpsbackups_async, name) for name in vpsbackups_async.__all__]
    statuses: dict[int, set[type]] = {}
    for kind in kinds:
        if inspect.isclass(kind) and issubclass(kind, VPSBackupsError):
            statuses.setdefault(kind.gateway_status, set()).add(kind)
    assert statuses.pop(400) == {BadRequestError}
    assert statuses.pop(404) == {NotFoundError, BackupDisappearedError, BackupNeverAppearedError}
    assert statuses.pop(409) == {
        ConflictError, BackupInProgressError, ManualBackupLimitError, StalePlanError,
    }  # fmt: skip
    assert PruneRefusedError.gateway_status == 409
    assert statuses.pop(500) == {ConfigurationError, WrongEventLoopError}
    assert statuses.pop(503) == {RateLimitedError, NotAttemptedError}
    assert statuses.pop(504) == {RequestTimeoutError, DeadlineExceededError, WaitTimeoutError}
    # Among them 401 and 403: a refused token is the handler's own, not that of its client.
    assert {AuthenticationError, PermissionDeniedError, ServerError} <= statuses.pop(502)
    assert statuses == {}


@pytest.mark.parametrize(
    "carry",
    [partial(pickled, protocol=5), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotInListError(7), "backup 7 is not in the list, which was read to its end. "),
        (
            NotInListError(7, 5, moved=True),
            "backup 7 is not in the list of server 5, which changed each time that it was read. ",
        ),
    ],
    ids=["at rest", "moved"],
)
def test_a_backup_that_is_not_in_a_list_is_an_error_that_says_which_and_can_be_carried(
    error: NotInListError, words: str, carry: Any
) -> None:
    again = carry(error)
    assert str(again).startswith(words)
    assert isinstance(again, NotFoundError)
    assert (again.backup_id, again.server_id, again.moved) == (
        error.backup_id,
        error.server_id,
        error.moved,
    )


def test_a_backup_that_cannot_be_restored_is_an_error_that_says_which_and_can_be_carried() -> None:
    error = NotRestorableError(BackupRef(7, 5), BackupStatus("paused"))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert "backup 7 is 'paused', not completed: nothing was sent" in str(error)
    assert (again.ref, again.status) == (BackupRef(7, 5), "paused")
    assert error.gateway_status == 409
