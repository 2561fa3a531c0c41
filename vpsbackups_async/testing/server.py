"""`FakeVPS`: a VPS.org backups API in memory, on a port of the loopback interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import EllipsisType, TracebackType
from typing import Any, Self

import attrs

from .clock import Clock, iso
from .faults import Fault
from .knobs import JSON, Knobs
from .listener import Listener
from .script import Script
from .seen import SeenRequest
from .state import DAY, Account, Held
from .views import Api

__all__ = ["FakeVPS"]


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class FakeVPS(Knobs):
    """A server that behaves as the VPS.org backups API, with state in memory.

        async with FakeVPS(servers=50) as fake:
            client = BackupsClient(fake.token, base_url=fake.url)

    Every argument is a keyword. Those marked * may also be set while it runs.

    The account:
        servers: a number (ids from 1, names ``server-0001``), ids, or a mapping of id to name.
        backups: completed automatic backups on each server, made within the last day; or
            mappings with any fields of a backup, to hold exactly those.
        token: the token to accept; a random one by default.
    How backups go:
        backup_seconds*: how long a new one takes, or a function of its JSON that tells.
        fails*: ids of servers whose new backups fail, or a function of the JSON that tells.
        failed_status*: the status of a failed one.
        visible_after*: seconds until a new one shows in the list.
        one_at_a_time*: answer 409 to a create while one of the server is in progress.
        quota*, quota_status*: manual backups per server, and the status of a refusal.
        retention_days*: how long an automatic one is kept.
        restore_reply*: status and JSON (or bytes, or None for no body) of a restore.
    How the list comes:
        paging*: ``"page"``, ``"limit"`` (and offset), ``"cursor"``, or ``"none"``: the whole
            list with no link, as in the provider's example.
        page_size*, max_page_size*: the default, and the most a client can ask for.
        truncate_to*: with ``"none"``, backups that come at once while ``count`` tells of all;
            honours_page*: whether the others can be had with ``?page=``.
        order: ``"id"``, ``"created_at"``, either with a minus, or ``"random"``.
        next_base*: scheme, host and port for the links, such as ``"http://h"``, instead of those
            that the request came to.
    Limits and faults:
        rate_limit*: requests per second, beyond which a 429 with ``Retry-After: 1`` comes.
        max_concurrent*: requests at a time, beyond which a 429 comes.
        faults: `Fault` values; see also `inject`.
        seed: for all that is random.
    Where it listens:
        ssl_context: serve https. host: the name in `url`; it always listens on 127.0.0.1.
        port: the port to listen on; 0 is any free one.
        prefix*: a path in front of ``/api/v1``.
        keepalive_seconds: how long an idle connection is kept.
        clock: a function that gives seconds since 1970. By default the clock starts at
            2025-01-16T15:45:00Z and follows the time of the event loop, virtual or not.

    Raises ValueError for an unknown ``order`` and for a backup of a server that is not there.
    """

    requests: list[SeenRequest] = attrs.field(factory=list, init=False)
    on_request: Callable[[SeenRequest], None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._time = Clock(self._clock)
        servers = _named(self._servers)
        self._account = Account(self, self._time, servers, self._order, self._seed)
        self._api = Api(self._account, self)
        self._script = Script(self._faults, self._seed)
        self._wire = Listener(self, self._api, self._script, self._time, self)
        self._fill()

    def __repr__(self) -> str:
        return f"<FakeVPS {self._wire.url or 'not started'}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        if error is None and self._wire.mishaps:
            raise self._wire.mishaps[0]

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port as before, with the state kept."""
        self._time.start()
        await self._wire.start()

    async def stop(self) -> None:
        """Cut every connection, those of parked requests too, and close the port."""
        await self._wire.stop()
        self._time.stop()

    @property
    def url(self) -> str:
        """The base URL for a client, such as ``http://127.0.0.1:40123``.

        Raises RuntimeError before the first start, when there is no port yet.
        """
        if self._wire.url is None:
            raise RuntimeError("the fake server has no URL before it is started")
        return self._wire.url

    @property
    def now(self) -> datetime:
        """The moment by the server's clock, aware, in UTC."""
        return datetime.fromtimestamp(self._time(), UTC)

    @property
    def peak(self) -> int:
        """The most requests that were in flight at one time."""
        return self._wire.peak

    @property
    def backups(self) -> list[JSON]:
        """The JSON of every backup held now, by ascending id, those not listed yet too."""
        return [dict(held.data) for held in self._account.all()]

    @property
    def restores(self) -> list[tuple[int, int]]:
        """The (server id, backup id) of every restore that was accepted."""
        return self._api.restores

    def advance(self, seconds: float) -> None:
        """Move the server's clock on by so many seconds; the event loop's stays."""
        self._time.advance(seconds)

    def count(
        self, method: str | None = None, path: str | None = None, status: int | None = None
    ) -> int:
        """How many requests were seen; None is any, ``path`` a part of path and query."""
        return sum(
            seen.matches(method, path) and (status is None or seen.status == status)
            for seen in self.requests
        )

    def add_backup(
        self,
        server_id: int,
        *,
        backup_type: str = "manual",
        status: str = "completed",
        created_at: str | datetime | None = None,
        size_mb: int | EllipsisType | None = ...,
        description: str | None = "",
        omit: Iterable[str] = (),
        seconds: float | None = None,
        **extra_fields: Any,
    ) -> JSON:
        """The JSON of a backup that the server holds from now on, in the list at once.

        Args:
            server_id: the server it is of.
            backup_type: any text.
            status: any text.
            created_at: the server's now if None; a text is taken as it is.
            size_mb: left out, a completed backup gets some size and another gets null.
            description: any text, or None for null.
            omit: names of fields to leave out of the JSON.
            seconds: how long one ``in_progress`` takes from now; None is until `finish`.
            extra_fields: more fields, or other values for those of the API, ``id`` included.

        Raises:
            ValueError: the server is not there, or the id is taken.

        """
        if server_id not in self._account.servers:
            raise ValueError(f"the fake server has no server {server_id}")
        held = self._account.add(
            server_id,
            backup_type=backup_type,
            status=status,
            created_at=created_at,
            size_mb=size_mb,
            description=description,
            omit=omit,
            **extra_fields,
        )
        if seconds is not None:
            self._account.end_later(held, seconds)
        return dict(held.data)

    def remove_backup(self, backup_id: int) -> None:
        """Take the backup away. Raises KeyError if it is not there."""
        if self._account.remove(backup_id) is None:
            raise KeyError(backup_id)

    def finish(self, backup_id: int, status: str = "completed") -> None:
        """Give the backup this status at once. Raises KeyError if it is not there."""
        held: Held | None = self._account.get(backup_id)
        if held is None:
            raise KeyError(backup_id)
        held.become(status)

    def inject(self, *faults: Fault) -> None:
        """Put these faults in force, after those that are."""
        self._script.add(faults)

    def clear_faults(self) -> None:
        """Leave no fault in force."""
        self._script.clear()

    def revoke(self) -> None:
        """Refuse the token with 401 from now on."""
        self._api.revoked = True

    def forbid(self) -> None:
        """Refuse every request that has the token with 403 from now on."""
        self._api.forbidden = True

    def allow(self) -> None:
        """Undo `revoke` and `forbid`."""
        self._api.revoked = self._api.forbidden = False

    def drop_connections(self) -> None:
        """Cut every open connection, idle or not; new ones are welcome."""
        self._wire.drop_connections()

    def _fill(self) -> None:
        if not isinstance(self._backups, int):
            for fields in self._backups:
                self._fill_one(fields)
            return
        for number in range(self._backups):
            age = DAY * (self._backups - number) / (self._backups + 1)
            created_at = iso(self._time() - age)
            for server_id in self._account.servers:
                self._account.add(
                    server_id,
                    backup_type="automatic",
                    created_at=created_at,
                    description="Automatic daily backup",
                )

    def _fill_one(self, fields: Mapping[str, Any]) -> None:
        rest = dict(fields)
        server = rest.get("server", rest.pop("server_id", None))
        if isinstance(server, Mapping):
            server_id = server["id"]
            self._account.servers.setdefault(server_id, server.get("name", _name(server_id)))
        else:
            rest.pop("server", None)
            server_id = server
        self.add_backup(server_id, **rest)


def _name(server_id: int) -> str:
    return f"server-{server_id:04d}"


def _named(servers: int | Iterable[int] | Mapping[int, str]) -> dict[int, str]:
    if isinstance(servers, Mapping):
        return dict(servers)
    ids = range(1, servers + 1) if isinstance(servers, int) else servers
    return {server_id: _name(server_id) for server_id in ids}
