"""The settings of the fake server, in one object that its parts read while it runs."""

import secrets
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import attrs

from .faults import Fault

__all__ = ["ACCOUNT", "JSON", "Knobs"]

JSON = dict[str, Any]
RESTORE_STARTED = {"message": "Restore has been started. The server will be offline meanwhile."}

ACCOUNT: JSON = {
    "account": {
        "email": "ada@example.com",
        "first_name": "Ada",
        "last_name": "Lovelace",
        "company_name": "Example Ltd",
        "created_at": "2024-01-15",
    },
    "token": {
        "name": "nightly",
        "permissions": ["servers:read", "backups:read", "backups:write"],
        "created_at": "2024-02-01T09:30:00Z",
    },
}


def _token(token: str | None) -> str:
    return "vps_" + secrets.token_hex(20) if token is None else token


def _fails(
    fails: Callable[[JSON], bool] | Iterable[int],
) -> Callable[[JSON], bool] | Iterable[int]:
    return fails if callable(fails) else frozenset(fails)


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class Knobs:
    """The constructor arguments of `FakeVPS`, documented there.

    Each alias is what attrs derives by itself; a type checker other than mypy must be told.
    """

    _servers: int | Iterable[int] | Mapping[int, str] = attrs.field(default=3, alias="servers")
    _backups: int | Iterable[Mapping[str, Any]] = attrs.field(default=0, alias="backups")
    backup_seconds: float | Callable[[JSON], float] = 5.0
    fails: Callable[[JSON], bool] | Iterable[int] = attrs.field(default=(), converter=_fails)
    failed_status: str = "failed"
    visible_after: float | Callable[[JSON], float] = 0.0
    new_ids: Literal["up", "down", "blocks"] = "up"
    date_ahead: float = 0.0
    stored_description: Callable[[str], str] | None = None
    one_at_a_time: bool = False
    quota: int = 10
    quota_status: int = 400
    retention_days: float = 30
    paging: Literal["page", "limit", "cursor", "none"] = "page"
    page_size: int = 20
    max_page_size: int = 100
    truncate_to: int | None = None
    honours_page: bool = False
    ignores_filters: Collection[str] = ()
    _order: str = attrs.field(
        default="-id",
        alias="order",
        validator=attrs.validators.in_(("id", "-id", "created_at", "-created_at", "random")),
    )
    next_base: str | None = None
    token: str = attrs.field(default=None, converter=_token)
    rate_limit: float | None = None
    max_concurrent: int | None = None
    limit_status: int = 429
    restore_reply: tuple[int, Any] = (202, RESTORE_STARTED)
    account_calls: Literal["served", "forbidden", "missing"] = "served"
    account_reply: Any = attrs.field(factory=lambda: ACCOUNT)
    server_statuses: Mapping[int, str] = attrs.field(factory=dict)
    server_locations: Mapping[int, str] = attrs.field(factory=dict)
    _faults: Iterable[Fault] = attrs.field(default=(), alias="faults")
    _seed: int = attrs.field(default=0, alias="seed")
    ssl_context: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    port: int = 0
    prefix: str = ""
    _clock: Callable[[], float] | None = attrs.field(default=None, alias="clock")
    keepalive_seconds: float = 75.0
