"""What `import vpsbackups_async` gives: names, signatures, the marker for type checkers."""

import inspect
from collections.abc import AsyncGenerator, Callable
from importlib.resources import files
from types import ModuleType
from typing import Any

import pytest
from attrs import fields

import vpsbackups_async
from vpsbackups_async import (
    AdaptiveLimiter,
    ApiError,
    Attempt,
    Backoff,
    Backup,
    BackupRef,
    BackupsClient,
    BackupStream,
    ConstantBackoff,
    Fleet,
    FleetError,
    Limiter,
    Outcome,
    Page,
    Restore,
    RetryPolicy,
    ServerRef,
    Sweep,
    Timeouts,
    TransportError,
    VPSBackupsError,
    WaitError,
    fan_out,
)

NAMES = [
    "AdaptiveLimiter",
    "ApiError",
    "Attempt",
    "AuthenticationError",
    "Backoff",
    "Backup",
    "BackupDisappearedError",
    "BackupFailedError",
    "BackupInProgressError",
    "BackupNeverAppearedError",
    "BackupRef",
    "BackupStatus",
    "BackupStream",
    "BackupType",
    "BackupsClient",
    "BadRequestError",
    "ClientStats",
    "ConfigurationError",
    "ConflictError",
    "ConstantBackoff",
    "CreateOutcomeUnknownError",
    "DeadlineExceededError",
    "DecorrelatedJitterBackoff",
    "ExponentialBackoff",
    "Fleet",
    "FleetError",
    "InvalidResponseError",
    "Limiter",
    "ManualBackupLimitError",
    "NotAttemptedError",
    "NotFoundError",
    "Outcome",
    "Page",
    "PaginationError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ResponseTooLargeError",
    "Restore",
    "RetryPolicy",
    "ServerError",
    "ServerRef",
    "StalePlanError",
    "Sweep",
    "Timeouts",
    "TransportError",
    "UnexpectedRedirectError",
    "VPSBackupsError",
    "WaitError",
    "WaitTimeoutError",
    "WrongEventLoopError",
    "fan_out",
    "from_json",
    "to_json",
]


def test_every_name_of_the_public_face_comes_from_the_root() -> None:
    assert [name for name in NAMES if not hasattr(vpsbackups_async, name)] == []
    assert set(NAMES) <= set(vpsbackups_async.__all__)


def test_all_is_sorted_without_duplicates_and_fits_one_screen() -> None:
    names = vpsbackups_async.__all__
    assert names == sorted(set(names))
    assert len(names) <= 60


def test_all_holds_every_public_name_of_the_root_and_no_other() -> None:
    there = {
        name
        for name, value in vars(vpsbackups_async).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(vpsbackups_async.__all__) == there


def test_a_star_import_gives_all_names() -> None:
    names: dict[str, Any] = {}
    exec("from vpsbackups_async import *", names)
    assert set(vpsbackups_async.__all__) <= set(names)


def test_every_public_name_is_documented() -> None:
    for name in vpsbackups_async.__all__:
        assert inspect.getdoc(getattr(vpsbackups_async, name)), name


def test_the_package_says_that_it_is_typed_and_which_version_it_is() -> None:
    assert files(vpsbackups_async).joinpath("py.typed").is_file()
    assert all(part.isdigit() for part in vpsbackups_async.__version__.split("."))


# The public face as it is written down, each with what may follow: names, kinds and defaults.
SIGNATURES: dict[Callable[..., Any], str] = {
    BackupsClient: "token=None, *, base_url=None, timeouts=Timeouts(), retry=RetryPolicy(), "
    "limiter=None, session=None, ssl_context=None, proxy=None, allow_insecure=False, "
    "max_response_bytes=16 * 2**20",
    BackupsClient.list: "self, *, server_id=None, backup_type=None, page_size=None, prefetch=0",
    BackupsClient.get: "self, backup_id, *, server_id=None",
    BackupsClient.create: "self, server_id, *, description=None",
    BackupsClient.wait: "self, backup, *, backoff=None, timeout=3600.0, on_poll=None",
    BackupsClient.delete: "self, backup_id, *, missing_ok=False",
    BackupsClient.restore: "self, server_id, backup_id",
    BackupsClient.fleet: "self, server_ids, *, concurrency=None",
    BackupsClient.background: "self, work, *, name=None",
    BackupsClient.asgi_lifespan: "self, app",
    BackupsClient.close: "self",
    BackupsClient.__aenter__: "self",
    BackupStream.__aiter__: "self",
    BackupStream.pages: "self",
    BackupStream.first: "self",
    BackupStream.collect: "self, limit=None",
    BackupStream.count: "self",
    BackupStream.snapshot: "self",
    BackupStream.ndjson: "self",
    BackupStream.aclose: "self",
    Fleet.list: "self, *, backup_type=None",
    Fleet.create: "self, *, description=None, wait=False, backoff=None, timeout=3600.0",
    fan_out: "work, items, *, concurrency=64",
    Outcome: "key, value=None, error=None",
    Outcome.unwrap: "self",
    Attempt: "number, elapsed=0.0, previous_delay=None, backup=None",
    Timeouts: "connect=10.0, attempt=30.0, deadline=120.0",
    AdaptiveLimiter: "maximum=64, rate=None",
    Limiter.acquire: "self, cost=1, kind='list'",
    Limiter.observe: "self, outcome",
    Backoff.__call__: "self, attempt, /",
    ConstantBackoff: "delay",
    VPSBackupsError: "*fields",
    TransportError: "message, sent=True, method='', path='', attempts=1",
    ApiError: "status, detail='', field_errors=None, request_id=None, method='', path='', "
    "attempts=1, retry_after=None",
    WaitError: "ref, last_status=None, elapsed=0.0, reason=''",
    FleetError: "failures",
}
COROUTINES = {
    *(BackupsClient.get, BackupsClient.create, BackupsClient.wait, BackupsClient.delete),
    *(BackupsClient.restore, BackupsClient.close, BackupsClient.__aenter__),
    *(BackupStream.first, BackupStream.collect, BackupStream.count, BackupStream.snapshot),
    *(BackupStream.ndjson, BackupStream.aclose, Limiter.acquire),
}


@pytest.mark.parametrize(
    ("face", "written"),
    [pytest.param(face, text, id=face.__qualname__) for face, text in SIGNATURES.items()],
)
def test_a_signature_is_the_one_written_down_and_what_it_adds_is_optional(
    face: Callable[..., Any], written: str
) -> None:
    wanted = inspect.signature(eval(f"lambda {written}: None")).parameters.values()
    given = inspect.signature(face).parameters
    for parameter in wanted:
        assert parameter.name in given
        assert given[parameter.name].replace(annotation=parameter.empty) == parameter
    assert [name for name in given if name in [parameter.name for parameter in wanted]] == [
        parameter.name for parameter in wanted
    ]
    more = [given[name] for name in given if name not in [parameter.name for parameter in wanted]]
    assert all(extra.default is not extra.empty for extra in more)
    if face is not Timeouts:  # a value's further fields follow the others
        assert all(extra.kind is extra.KEYWORD_ONLY for extra in more)


@pytest.mark.parametrize("face", SIGNATURES, ids=lambda face: face.__qualname__)
def test_only_what_is_one_answer_is_a_coroutine(face: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(face) == (face in COROUTINES)


def test_every_public_parameter_is_typed() -> None:
    for face in SIGNATURES:
        hints = inspect.get_annotations(face.__init__ if inspect.isclass(face) else face)
        names = set(inspect.signature(face).parameters) - {"self"}
        assert names <= set(hints)


def test_a_retry_policy_has_the_documented_knobs() -> None:
    policy = RetryPolicy()
    assert (policy.attempts, policy.max_retry_after) == (5, 120.0)
    assert callable(policy.backoff)
    assert list(inspect.signature(RetryPolicy).parameters) == [
        *["attempts", "backoff", "max_retry_after", "budget", "create_grace"]
    ]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Sweep, {"items", "complete", "count_first", "count_last", "duplicates"}),
        (Page, {"items", "count", "next", "previous"}),
        (Restore, {"server_id", "backup_id", "status", "message", "data"}),
        (BackupRef, {"id", "server_id"}),
        (ServerRef, {"id", "name"}),
        (
            Backup,
            {"id", "server", "backup_type", "status", "size_mb", "created_at", "expires_at"}
            | {"description"},
        ),
    ],
)
def test_a_value_has_the_documented_fields(kind: type, names: set[str]) -> None:
    assert names <= {part.name for part in fields(kind)}


async def test_a_list_is_a_stream_and_not_a_coroutine() -> None:
    client = BackupsClient("vps_test")
    stream = client.list()
    assert isinstance(stream, BackupStream)
    assert isinstance(stream.pages(), AsyncGenerator)
    assert isinstance(client.fleet([1]).list(), AsyncGenerator)
    assert isinstance(client.fleet([1]).create(), AsyncGenerator)
    await client.close()
