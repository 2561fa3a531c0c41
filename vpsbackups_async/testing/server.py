"""`FakeVPS`: the VPS.org backups API in memory, on a loopback port."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import EllipsisType, TracebackType
from typing import Any, Self

import attrs

from .active_faults import ActiveFaults
from .clock import Clock, iso
from .faults import Fault
from .in_thread import entered_in_thread
from .knobs import JSON, Knobs
from .listener import Listener
from .seen import SeenRequest
from .servers import server_json
from .state import DAY, Account
from .views import Api

__all__ = ["FakeVPS"]


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class FakeVPS(Knobs):
    """A server that behaves like the VPS.org backups API and keeps its state in memory.

        async with FakeVPS(servers=50) as fake:
            client = BackupsClient(fake.token, base_url=fake.url)

    All arguments are keywords. Those marked * are also attributes that may be set at any time.
    ``requests`` is the list of the received requests, each a `SeenRequest`. If ``on_request`` is
    set to a function, it is called with each request before the server answers.

    The account:
        servers: a number of servers (ids from 1, names such as ``server-0001``), their ids, or
            a mapping of id to name.
        backups: the number of completed automatic backups that each server starts with, created
            within the last day; or mappings of fields, one for each backup to start with. A
            ``server_id`` or ``server`` names the server; a ``server`` with ``id`` and ``name`` is
            added if it does not exist.
        token: the token to accept; random by default.
    New backups:
        backup_seconds*: seconds until a new backup ends, or a function that computes them from
            its JSON.
        fails*: ids of servers whose new backups fail, or a function that decides from the JSON.
        failed_status*: the status of a failed backup.
        visible_after*: seconds until a new backup appears in the list, or a function that
            computes them from its JSON.
        new_ids*: the order of new ids: ``"up"``, each one above all others; ``"down"``, each one
            below all others from 1,000,000 on; or ``"blocks"``, from one of four blocks at
            random, as databases with several writers hand them out.
        stored_description*: a function from the description of a create to the one that is stored,
            for a server that cuts or changes descriptions.
        one_at_a_time*: answer 409 to a create while a backup of that server is in progress.
        quota*, quota_status*: the most manual backups per server, and the HTTP status of the
            reply to one more.
        retention_days*: days until an automatic backup expires.
        restore_reply*: the HTTP status of a restore's reply, and its body: a value to send as
            JSON, bytes, or None for no body.
    The list:
        paging*: ``"page"``, ``"limit"`` (with offset), ``"cursor"``, or ``"none"``: the whole
            list without links, as in the provider's example.
        page_size*, max_page_size*: backups per page by default, and the most a client can ask
            for.
        truncate_to*: with ``"none"``, send only this many backups although ``count`` states the
            full number.
        honours_page*: whether ``?page=`` returns the rest of a truncated list.
        ignores_filters*: names of filters that have no effect, such as ``["server_id"]``.
        order: ``"id"``, ``"created_at"``, either with a minus for descending, or ``"random"``.
        next_base*: scheme, host and port for the links, such as ``"http://h"``; by default those
            of the request.
    The list of servers, paged as that of backups, and the account:
        account_calls*: how these two are answered: ``"served"``, ``"forbidden"`` (403), or
            ``"missing"`` (404), as for a provider that has no such calls.
        server_statuses*, server_locations*: the status and the location of each server by its id;
            ``"active"`` and ``"us-west"`` for the others. See also `add_server`.
        account_reply*: the JSON of the account and its token.
    Limits and faults:
        rate_limit*: requests per second; more get a 429 with ``Retry-After: 1``.
        max_concurrent*: requests at a time; more get a 429 with ``Retry-After: 1``.
        limit_status*: the status of these refusals; other than 429, such as 503, they come without
            ``Retry-After``, as nginx and uvicorn send them.
        faults: the `Fault` values to start with; see also `inject`.
        seed: the seed of everything random but the token.
    The address and the clock:
        date_ahead*: seconds by which the ``Date`` header is ahead of the clock that creation
            times come from; may be negative.
        ssl_context: serve https with this context.
        host: the host name in `url`; the server always listens on 127.0.0.1.
        port: the port to listen on; 0 picks a free one.
        prefix*: a path in front of ``/api/v1``.
        keepalive_seconds: seconds until an idle connection is closed.
        clock: a function that returns seconds since 1970. By default the clock starts at
            2025-01-16T15:45:00Z and follows the event loop's time, virtual or not.

    Raises ValueError for an unknown ``order`` and for a backup in ``backups`` whose server does not
    exist or whose id occurs twice. If one of the caller's functions raises while a request is
    answered, the client gets a 500, and leaving the ``async with`` block normally raises the first
    of these errors.
    """

    requests: list[SeenRequest] = attrs.field(factory=list, init=False)
    on_request: Callable[[SeenRequest], None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._time = Clock(self._clock)
        servers = _with_names(self._servers)
        self._account = Account(self, self._time, servers, self._order, self._seed)
        self._api = Api(self._account, self)
        self._active_faults = ActiveFaults(self._faults, self._seed)
        self._listener = Listener(self, self._api, self._active_faults, self._time, self)
        self._add_first_backups()

    def __repr__(self) -> str:
        return f"<FakeVPS {self._listener.url or 'not started'}>"

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
        if error is None and self._listener.errors:
            raise self._listener.errors[0]

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run the server in a thread of its own, for code and tests that are not async.

            with FakeVPS(servers=50).in_thread() as fake:
                ...

        In the block, everything but `start` and `stop` may be used from any thread. The clock goes
        at real speed unless there is a ``clock``; `advance` moves it too. The caller's functions
        are called in the server's thread. Raises what ``async with`` raises.
        """
        with entered_in_thread(self):
            yield self

    async def start(self) -> None:
        """Listen for requests; after a `stop`, on the same port and with the same backups.

        Raises RuntimeError if the server is already running, and OSError if the port is in use.
        """
        self._time.start()
        await self._listener.start()

    async def stop(self) -> None:
        """Cut every connection, including those of delayed requests, and close the port."""
        await self._listener.stop()
        self._time.stop()

    @property
    def url(self) -> str:
        """The base URL for a client, such as ``http://127.0.0.1:40123``.

        Raises RuntimeError before the first start, when the port is not known yet.
        """
        if self._listener.url is None:
            raise RuntimeError("the fake server has no URL before it is started")
        return self._listener.url

    @property
    def now(self) -> datetime:
        """The current time by the server's clock, timezone-aware in UTC."""
        return datetime.fromtimestamp(self._time(), UTC)

    @property
    def peak(self) -> int:
        """The highest number of requests that were in flight at the same time."""
        return self._listener.peak

    @property
    def backups(self) -> list[JSON]:
        """The JSON of every backup by ascending id, including those not yet in the list."""
        with self._account.lock:
            return [dict(backup.data) for backup in self._account.all()]

    @property
    def restores(self) -> list[tuple[int, int]]:
        """The (server id, backup id) of every accepted restore, in order of arrival."""
        return self._api.restores

    def advance(self, seconds: float) -> None:
        """Move the server's clock forward by ``seconds``, but not the event loop's."""
        self._time.advance(seconds)

    def count(
        self, method: str | None = None, path: str | None = None, status: int | None = None
    ) -> int:
        """The number of received requests that match; None matches everything.

        Args:
            method: the HTTP method, in either case.
            path: text that the path or the query contains.
            status: the HTTP status of the reply.

        """
        return sum(
            seen.matches(method, path) and (status is None or seen.status == status)
            for seen in self.requests
        )

    def add_server(self, server_id: int, name: str | None = None, **fields: Any) -> JSON:
        """Add a server, or change one, and return its JSON.

        ``fields`` are more fields of its JSON, or other values for the usual ones; one that is
        ``...`` is left out.
        """
        self._account.servers[server_id] = name or _name(server_id)
        self._account.server_fields[server_id] = fields
        return server_json(self._account, self, server_id)

    def remove_server(self, server_id: int) -> None:
        """Remove the server, not its backups. Raises KeyError if it does not exist."""
        del self._account.servers[server_id]

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
        """Add a backup, which the list shows at once, and return its JSON.

        Args:
            server_id: the id of its server.
            backup_type: any text.
            status: any text.
            created_at: the server's current time if None; text is sent unchanged.
            size_mb: if not given, a completed backup gets some size and any other gets null.
            description: any text, or None for null.
            omit: names of fields to leave out of the JSON.
            seconds: seconds from now until a backup with the status ``in_progress`` ends; with
                None it runs until `finish`.
            extra_fields: more fields of the JSON, or other values for the usual ones, ``id``
                included.

        Raises:
            ValueError: the server does not exist, or the id is in use.
            KeyError: ``omit`` names a field that the JSON does not have.

        """
        if server_id not in self._account.servers:
            raise ValueError(f"the fake server has no server {server_id}")
        with self._account.lock:
            backup = self._account.add(
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
                self._account.end_later(backup, seconds)
            return dict(backup.data)

    def remove_backup(self, backup_id: int) -> None:
        """Delete the backup. Raises KeyError if it does not exist."""
        with self._account.lock:
            if self._account.remove(backup_id) is None:
                raise KeyError(backup_id)

    def finish(self, backup_id: int, status: str = "completed") -> None:
        """Give the backup this status at once. Raises KeyError if it does not exist."""
        with self._account.lock:
            backup = self._account.get(backup_id)
            if backup is None:
                raise KeyError(backup_id)
            backup.set_status(status)

    def inject(self, *faults: Fault) -> None:
        """Add these faults; earlier ones are tried first."""
        self._active_faults.add(faults)

    def clear_faults(self) -> None:
        """Remove every fault."""
        self._active_faults.clear()

    def revoke(self) -> None:
        """Answer 401 to the token from now on."""
        self._api.revoked = True

    def forbid(self) -> None:
        """Answer 403 to every request with the token from now on."""
        self._api.forbidden = True

    def allow(self) -> None:
        """Accept the token again after `revoke` or `forbid`."""
        self._api.revoked = self._api.forbidden = False

    def drop_connections(self) -> None:
        """Cut every open connection, idle or not; new connections are accepted."""
        self._listener.drop_connections()

    def _add_first_backups(self) -> None:
        if not isinstance(self._backups, int):
            for fields in self._backups:
                self._add_from(fields)
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

    def _add_from(self, fields: Mapping[str, Any]) -> None:
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


def _with_names(servers: int | Iterable[int] | Mapping[int, str]) -> dict[int, str]:
    if isinstance(servers, Mapping):
        return dict(servers)
    ids = range(1, servers + 1) if isinstance(servers, int) else servers
    return {server_id: _name(server_id) for server_id in ids}
