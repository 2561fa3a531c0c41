"""`BackupsClient`, the class that users start from."""

import asyncio
import os
import ssl as ssl_module
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from datetime import date, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Self, SupportsIndex, TypeVar

import aiohttp
from attrs import frozen
from yarl import URL

from vpsbackups_async import _events, _on_demand, _wire
from vpsbackups_async._checks import (
    check_callable,
    check_duration,
    check_int,
    check_number,
    check_plain_function,
)
from vpsbackups_async._lists.lists import (
    KnownLists,
    Lists,
    backups_query,
    fetch_page,
    servers_query,
)
from vpsbackups_async._lists.stream import BackupStream, ServerStream
from vpsbackups_async._lists.walk import MAX_PAGES
from vpsbackups_async._shared import Shared
from vpsbackups_async._transport.address import check_base_url
from vpsbackups_async._transport.attempts import is_ambiguous
from vpsbackups_async._transport.calls import BeforeAgain
from vpsbackups_async._transport.limiter import Limiter
from vpsbackups_async._transport.monitor import Monitor
from vpsbackups_async._transport.quota import RateLimitStatus
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.secrets import Secret
from vpsbackups_async._transport.session import Session
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async._values import Value
from vpsbackups_async.backoff import Attempt, Backoff, ExponentialBackoff
from vpsbackups_async.errors import (
    ApiError,
    BackupFailedError,
    ConfigurationError,
    CreateOutcomeUnknownError,
    NotFoundError,
    NotRestorableError,
    VPSBackupsError,
)
from vpsbackups_async.models import (
    Account,
    Backup,
    BackupRef,
    BackupType,
    Outcome,
    Restore,
)

__all__ = ["BackupStream", "BackupsClient", "ClientStats", "ServerStream"]

T = TypeVar("T")

DEFAULT_URL = "https://admin.vps.org"
DEFAULT_WAIT_BACKOFF: Backoff = ExponentialBackoff(5.0, factor=1.5, maximum=30.0)
_MAY_BE_GONE = "Look whether the backup is still listed before you delete it again"
_RESTORE_MAY_RUN = "The restore may be running: look at the server before you restore it again"
_before_again: Final[ContextVar[BeforeAgain | None]] = ContextVar("before_again", default=None)
"""What is awaited before a deletion of this context is tried again."""


@frozen(eq=False, repr=False)
class ClientStats(Value):
    """What a client has done so far, and the state of its limiter.

    `requests` counts all attempts, `retries` those that followed a failure, `rate_limited` the
    answers with 429, `bytes_received` the decoded bodies in bytes. The limiter, which other clients
    may share, lets `limit` requests run at once; `running` are running and `waiting` wait for it
    (each None if the limiter does not tell). `gate_closed_for` is the time in seconds until it
    opens again after a 429 or a run of 503s, 0 while it is open. `rate_limit` is what the
    server told last of its own limit, None if it told nothing.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    bytes_received: int = 0
    limit: int | None = None
    running: int | None = None
    waiting: int | None = None
    gate_closed_for: float = 0.0
    rate_limit: RateLimitStatus | None = None


class BackupsClient:
    """A client of the VPS.org backups API for one token, made once and shared by all tasks.

    It may be created at import time: it opens its connections on first use, in the event loop that
    runs then. Close it with `async with` or `await client.close()`.

    - `token` and `base_url` default to the environment's `VPS_API_TOKEN` and `VPS_API_URL`; the URL
      may end in `/api/v1` or not.
    - `timeouts` and `retry` hold for each call.
    - `limiter` decides how many requests run at once; several clients may share one.
    - `session` is an `aiohttp.ClientSession` of your own, `connector` an aiohttp connector (its own
      resolver, a Unix socket); what is yours is used and never closed, and clients may share it.
    - `ssl_context` is for a CA of your own.
    - `proxy` is an http(s) URL (without a scheme, http is meant), or "env" for the usual variables:
      `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` (`.netrc` is never read).
    - `allow_insecure` allows a plain `http://` URL to another machine, or through a proxy on one,
      where anybody on the way can read the token; to this machine (loopback) it is always allowed.
    - `max_response_bytes` is the largest decoded body of a reply, in bytes.
    - `on_event` is called with each event of `vpsbackups_async.events`, in the event loop; what it
      raises is logged.

    Raises `ConfigurationError` for a token, URL, proxy or `ssl_context` that cannot work, and
    `ValueError` for other arguments of the wrong kind or out of range.
    """

    _parent: Self | None = None
    """The client that is to be closed, if it is not this one."""

    def __init__(
        self,
        token: str | None = None,
        *,
        base_url: str | URL | None = None,
        timeouts: Timeouts = Timeouts(),
        retry: RetryPolicy = RetryPolicy(),
        limiter: Limiter | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl_module.SSLContext | None = None,
        proxy: str | None = None,
        connector: aiohttp.BaseConnector | None = None,
        allow_insecure: bool = False,
        max_response_bytes: int = 16 * 2**20,
        on_event: "_events.OnEvent | None" = None,
    ) -> None:
        # Wrapped before anything can fail: a traceback may show this frame's locals.
        token = Secret.wrap(os.environ.get("VPS_API_TOKEN", "") if token is None else token)
        base_url = Secret(base_url or os.environ.get("VPS_API_URL") or DEFAULT_URL)
        proxy = None if proxy is None else Secret.wrap(str(proxy))
        check_int("max_response_bytes", max_response_bytes)
        _check_options(timeouts, retry)
        if on_event is not None:
            check_plain_function("on_event", on_event)
        root = check_base_url(base_url, allow_insecure=allow_insecure, token=token)
        self._session = Session(
            token.checked(),
            root,
            keepalive=timeouts.keepalive,
            budget=retry.budget,
            limiter=limiter,
            given=session,
            connector=connector,
            ssl_context=ssl_context,
            proxy=proxy,
            allow_insecure=allow_insecure,
            max_response_bytes=max_response_bytes,
            monitor=Monitor(on_event),
        )
        self._known_lists = KnownLists(root, self._session.mask)
        self._shared = Shared(self._session, self._known_lists, timeouts, retry)
        self._set_options(timeouts, retry)

    def _set_options(self, timeouts: Timeouts, retry: RetryPolicy) -> None:
        """Send with these timeouts and retries."""
        self._timeouts, self._retry = timeouts, retry
        self._transport = Transport(self._session, timeouts, retry)
        # Partials, not methods: a client in a reference cycle would outlive its event loop, and one
        # that was never closed could then no longer close its connections.
        self._lists = Lists(partial(fetch_page, self._transport), self._known_lists)
        self._made_finder: _on_demand.Finder | None = None
        self._made_creator: _on_demand.Creator | None = None

    @property
    def _finder(self) -> "_on_demand.Finder":
        if self._made_finder is None:
            self._made_finder = self._shared.finder(self._lists)
        return self._made_finder

    @property
    def _creator(self) -> "_on_demand.Creator":
        if self._made_creator is None:
            self._made_creator = self._shared.creator(self._transport, self._retry)
        return self._made_creator

    def __repr__(self) -> str:
        # A traceback with locals also calls it if `__init__` fails.
        session = getattr(self, "_session", None)
        return f"<BackupsClient of {session.root if session else 'nothing yet'}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "a BackupsClient holds a token and connections: make it in the process that uses it"
        )

    # --- Lists ---------------------------------------------------------------------------------

    def list(
        self,
        *,
        server_id: int | None = None,
        backup_type: Literal["manual", "automatic"] | BackupType | None = None,
        page_size: int | None = None,
        prefetch: int = 0,
        max_pages: int = MAX_PAGES,
    ) -> BackupStream:
        """The backups of one server or all, manual or automatic or both, read as you go.

        `page_size` asks for that many backups a page. The API does not document it, so a server may
        ignore it; if it refuses it with a 400, the list is read without it. `prefetch` is the
        number of page requests that may run ahead of the reader. A list of more than `max_pages`
        pages is taken for one without end.

        Raises `ValueError` for values out of range. Reading it raises `ApiError` and
        `TransportError`, and `PaginationError` for links that cannot be followed and for more than
        `max_pages` pages.
        """
        check_int("prefetch", prefetch, 0)
        check_int("max_pages", max_pages)
        query = backups_query(server_id, backup_type, page_size)
        return BackupStream(self._lists, query, prefetch, max_pages)

    def servers(
        self,
        *,
        status: str | None = None,
        location: str | None = None,
        page_size: int | None = None,
        prefetch: int = 0,
    ) -> ServerStream:
        """The servers of the account, read as you go; `page_size` and `prefetch` as for `list`.

        `status` is the API's own word, such as `active`, and `location` a data centre (`us-west`).
        Raises `ValueError` for values out of range. Reading it raises what reading `list` raises; a
        403 or 404 where the token is not given this list: name the servers by their ids then.
        """
        check_int("prefetch", prefetch, 0)
        return ServerStream(self._lists, servers_query(status, location, page_size), prefetch)

    async def account(self) -> Account:
        """The account that the token belongs to, and what the token may do.

        Raises `ApiError`, `TransportError`, and `InvalidResponseError` for an answer that is no
        account.
        """
        try:
            response = await self._transport.send(_wire.account_request())
        except ApiError as error:
            _wire.hint_at_refusal(error, _wire.ACCOUNT_REFUSED)
            raise
        return _wire.read_account(response)

    async def get(self, backup_id: int, *, server_id: int | None = None) -> Backup:
        """The backup with this id, found by looking through the list, or one server's list.

        Raises `NotFoundError` if the list was read to its end without it, or three times while it
        moved; its text says which. Other `ApiError` and `TransportError` if it cannot be read.
        """
        check_int("backup_id", backup_id)
        ref = _ref(BackupRef(backup_id, server_id))
        # The server's own pages are small, and answer sooner where one backup is looked for.
        async with aclosing(self._finder.locate([ref], page_size=None)) as outcomes:
            return (await anext(outcomes)).unwrap()

    def find(
        self, backups: Iterable[BackupRef | int]
    ) -> AsyncGenerator[Outcome[BackupRef, Backup]]:
        """The backups with these ids: one outcome for each distinct ref, as they are found.

        A ref with its server's id may take fewer requests. An outcome's error is `NotFoundError` if
        the backup is not in the list, as `get` raises it, or the error with which its list failed.
        One list that fails does not stop the others; if the list of all servers fails, the lists of
        the refs' servers are read.

        Raises `ValueError` for an id out of range, before anything is sent.
        """
        return self._finder.locate([_ref(backup) for backup in backups])

    # --- One backup ----------------------------------------------------------------------------

    async def create(
        self,
        server_id: int,
        *,
        description: str | None = None,
        if_running: Literal["raise", "wait", "adopt"] = "raise",
        timeout: float | None = None,
        marker: bool | str = False,
        keep: bool | date | None = None,
        job: str | None = None,
    ) -> Backup:
        """A new manual backup as the API starts it, `in_progress`; `wait` waits for its end.

        `description` is any text. A create that may have been carried out is never sent again,
        unless `RetryPolicy.create_again_after` asks for it. If its answer is lost (a cut
        connection, a timeout, a 5xx), the server's backups are looked at for
        `RetryPolicy.create_grace` seconds, and the backup is returned if it is there: one that was
        not known before, has the same description, and was created within ten minutes of it.

        `marker=True` adds a tag to the description, `[vb:7f3a2c91]`, by which that is certain. A
        marker of your own (up to 64 letters, digits and `._:/+@=-`), the same for each try of a
        job, makes a repeat safe: the server's backups are read first, and one with this marker that
        has not failed is returned instead of a new one.

        `keep` and `job` are for `vpsbackups_async.retention`, and labels in the description too:
        `keep=True` (`[keep]`) pins the backup, a date (`[keep:2027-01-01]`) through that day;
        `job="nightly"` (`[job:nightly]`, the same letters as a marker) says to whose policy it
        belongs. They take the place of those that the description has.

        A client starts one backup at a time on a server. `if_running` says what to do if another
        one runs there already: "raise" leaves it to the server to refuse, "adopt" returns the
        running one, "wait" waits for its end and creates then: for `timeout` seconds at most, or
        for as long as it takes. Other creates may start there meanwhile.

        Cancelling the caller while the request is under way does not stop it: it ends in the
        background, is logged and emitted as an event with the backup's id, and `close()` waits for
        it.

        Raises `ManualBackupLimitError` if the server has ten manual backups,
        `BackupInProgressError` if one is running, `WaitTimeoutError` if it still runs after
        `timeout`, `CreateOutcomeUnknownError` if it is not known whether a backup was made (see
        `settle`), `PaginationError` if the backups had to be read first and the list does not hold
        still, and other `ApiError` and `TransportError`; `ValueError` for bad arguments.
        """
        check_int("server_id", server_id)
        _on_demand.check_if_running(if_running)
        if timeout is not None:
            check_number("timeout", timeout)
        self._session.open()
        return await self._creator.create(
            server_id,
            description,
            if_running=if_running,
            timeout=timeout,
            marker=marker,
            keep=keep,
            job=job,
        )

    async def ensure(
        self,
        server_id: int,
        *,
        within: timedelta | datetime,
        description: str | None = None,
        running_within: timedelta = timedelta(hours=6),
    ) -> Backup:
        """A recent manual backup with this description: one that is there, or else a new one.

        That is the newest one that is completed and younger than `within`, or runs and is younger
        than `running_within` (so that one that is stuck does not count), by the clock of the
        server (its `Date` header, without one this machine's). Descriptions are compared without
        their tags; one with an unknown status counts as running. `within=timedelta(hours=20)` is
        for nightly runs: with 24, a run that comes a minute early finds the backup of the day
        before. A moment `within`, by this machine's clock, means newer than that, for one that runs
        as well; it stays the same however late a repeat comes.

        The server's manual backups are read completely first, so that a lost answer is settled
        with certainty. A new backup has a marker made of the period, server and description;
        periods are as long as `within`, counted from 1970. So it is safe to try again, in another
        process too; a minute later after a `CreateOutcomeUnknownError`. If two processes create in
        the same moment, both give the backup that was made first, and a WARNING names the other
        one; the server's list is read once more for that. Otherwise it acts as `create` does, also
        if the caller is cancelled.

        A description that the server cut within its tags still counts. If it cuts or changes the
        text itself, this client knows its own backup by the id, and a WARNING says that another
        process cannot.

        Raises what `create` raises, `PaginationError` where the list cannot be read completely
        included; `ValueError` for bad arguments.
        """
        check_int("server_id", server_id)
        windows = _on_demand.windows_of(within, running_within)
        self._session.open()
        return await self._creator.ensure(server_id, description, *windows)

    async def settle(self, error: CreateOutcomeUnknownError) -> Backup:
        """The backup of a create that failed with this error, found by looking once more.

        The error may come from an earlier process: it can be pickled. No look can tell that a
        backup was not made, so there is no such answer: if none is found, a
        `CreateOutcomeUnknownError` with what is known now is raised, from the failure of the look
        if that failed. A backup that another create was given is never the answer.

        Raises `ValueError` for anything but such an error.
        """
        if not isinstance(error, CreateOutcomeUnknownError) or error.server_id is None:
            raise ValueError(f"settle needs a CreateOutcomeUnknownError of create, not {error!r}")
        server_id = check_int("server_id", error.server_id)
        self._session.open()
        return await self._creator.settle(error, server_id)

    async def wait(
        self,
        backup: Backup | BackupRef | int,
        *,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
        on_poll: Callable[[Attempt], object] | None = None,
        on_unknown: Literal["wait", "raise"] = "wait",
        appear_grace: float = 60.0,
    ) -> Backup:
        """The backup once it is completed; all waits of a client share their looks at the list.

        An id is enough; a `Backup` or `BackupRef` with its server's id may take fewer requests.
        `backoff` gives the delay before each look, the first included (default: 5 s, growing to
        30 s). `timeout` is in seconds, None for no limit. `on_poll` is called with an `Attempt`
        after each look. A status that this library does not know does not end the wait, unless
        `on_unknown` is "raise". A backup that is not listed has `appear_grace` seconds to appear,
        and is not taken for deleted before.
        A failed look does not end the wait, unless it was refused: a 401 ends all waits, a 403 of a
        server's list those for its backups. A backup with this id but of another server is not the
        one waited for.

        Raises `BackupFailedError`, `BackupDisappearedError`, `BackupNeverAppearedError` or
        `WaitTimeoutError`, each with the ref to wait for again; `AuthenticationError` or
        `PermissionDeniedError` if the token is refused; `ValueError` for bad arguments.
        """
        known, ref = _known_and_ref(backup)
        if timeout is not None:
            check_number("timeout", timeout)
        check_number("appear_grace", appear_grace)
        if backoff is not None:
            check_callable("backoff", backoff)
        if on_poll is not None:
            check_plain_function("on_poll", on_poll)
        if on_unknown not in {"wait", "raise"}:
            raise ValueError(f"on_unknown must be 'wait' or 'raise', not {on_unknown!r}")
        self._session.open(settles=True)  # while it is closed, the hub answers with the ref
        if known is not None and known.is_completed:
            return self._completed(known)
        if known is not None and known.is_failed:
            raise BackupFailedError(ref, known.status, backup=known)
        waiter = _on_demand.Waiter(
            ref,
            known,
            backoff=backoff or DEFAULT_WAIT_BACKOFF,
            timeout=timeout,
            on_poll=on_poll,
            on_unknown=on_unknown,
            appear_grace=appear_grace,
            mask=self._session.mask,
        )
        return self._completed(await self._shared.hub.wait(waiter))

    def _completed(self, backup: Backup) -> Backup:
        if self._session.monitor.emit is not None:
            self._session.monitor.emit(_events.BackupCompleted(backup))
        return backup

    async def delete(self, backup_id: int, *, missing_ok: bool = False) -> None:
        """Delete a backup for good; this cannot be undone.

        A 404 after an attempt whose answer was lost counts as done. A 404 with a page or text that
        is no JSON may be that of a proxy: it neither counts as done, nor does `missing_ok` hide it.

        Raises `NotFoundError` if there is no such backup, unless `missing_ok`; other `ApiError` and
        `TransportError`; `InvalidResponseError` if the answer is a page of HTML or tells of a
        failure; `ValueError` for an id out of range.
        """
        request = _wire.delete_request(backup_id)
        try:
            reply = await self._transport.send(request, before_again=_before_again.get())
        except NotFoundError as error:
            if not (missing_ok and error.from_api):
                raise
            return
        _wire.check_done(reply, _MAY_BE_GONE)
        self._shared.known.forget(backup_id)

    async def restore(self, server_id: int, backup_id: int, *, check: bool = True) -> Restore:
        """Overwrite a server with one of its backups; what the API said when it accepted that.

        The server's list is read first: nothing is sent unless the backup is there and completed.
        `check=False` leaves that to the API, for a day on which the list is down.

        It is sent again only if nothing was sent, or a 429 refused it. After an error that is
        `in_doubt`, the restore may be running: look at the server first.

        Raises `NotFoundError` if the server has no such backup, `errors.NotRestorableError` if it
        is not completed, other `ApiError` and `TransportError`, `InvalidResponseError` if the
        answer is a page of HTML or tells of a failure, `ValueError` for ids out of range.
        """
        request = _wire.restore_request(server_id, backup_id)
        if check:
            backup = await self.get(backup_id, server_id=server_id)
            if not backup.is_completed:
                ref, status = backup.ref, _on_demand.shown_status(backup, self._session.mask)
                del backup  # a traceback may show local variables
                raise NotRestorableError(ref, status)
        try:
            reply = await self._transport.send(request)
        except VPSBackupsError as error:
            if is_ambiguous(error):
                error.hint = _RESTORE_MAY_RUN
            raise
        _wire.check_done(reply, _RESTORE_MAY_RUN)
        return _wire.read_restore(reply, server_id, backup_id)

    # --- Deleting by a policy ------------------------------------------------------------------

    async def plan_prune(
        self, server_ids: "_on_demand.Servers", retention: "_on_demand.Retention"
    ) -> "_on_demand.PrunePlan":
        """What the policy would delete and keep on each of these servers, and why; only reads.

        `server_ids` is as for `fleet`; each server is planned once, on its own. The whole list is
        read where that takes fewer requests than asking each server. Whatever does not allow a
        decision about a server is in the `problem` of its plan, and nothing of it is deleted then:
        a list that could not be read completely, or a policy that may keep so much that the quota
        has no place for the next backup.

        Decisions rest on the server's clock (its `Date` header) or this machine's, whichever is
        earlier. Raises `AuthenticationError` if the token is refused, what reading the servers
        raises, and `ValueError` for bad arguments.
        """
        _on_demand.check_servers(server_ids)
        _check_retention(retention)
        servers = await _on_demand.read_servers(server_ids, self._lists)
        planner = _on_demand.Planner(self._lists, self._looks())
        return await planner.plan(list(servers), retention)

    def apply(
        self,
        plan: "_on_demand.PrunePlan",
        *,
        max_deletions: int | None = None,
        max_fraction: float = 0.5,
        max_age: timedelta = timedelta(hours=1),
    ) -> AsyncGenerator[Outcome[BackupRef, Backup]]:
        """Delete for good what the plan says: one outcome for each of its backups.

        `max_deletions` bounds how many backups may go, of each server and of the whole plan, and
        `max_fraction` which share of the manual backups that a server has of the policy's job.
        A plan that goes beyond is refused before anything is deleted, and so is one that is older
        than `max_age`, or that names a server or a backup twice or mixes up those of two servers.

        Each server is read again before its deletions, completely. If a backup that is to stay is
        no longer there or no longer completed, if one that is to go has changed, or if the policy
        would keep it now, all outcomes of that server are `StalePlanError`. Then its backups are
        deleted, oldest first, each by `delete` of this client. Before a deletion that is tried
        again or waited in the limiter for over five seconds, after one that failed, and five
        seconds after the last read, the server is read again: if that shows such a change, nothing
        more of it is deleted. One that is gone already is done; one that is still listed ten
        seconds after its deletion has failed. After a 401 the rest is `NotAttemptedError`. Each
        outcome comes once it is known: a deletion is done when the list confirms it. If the run is
        cancelled or left before, a WARNING of the log names what was deleted already.

        Raises `errors.PruneRefusedError`, `StalePlanError`, and `ValueError` for bad arguments,
        when it is called.
        """
        if not isinstance(plan, _on_demand.PrunePlan):
            raise ValueError(f"plan must be a PrunePlan, not {plan!r}")
        check_duration("max_age", max_age)
        caps = _on_demand.Caps(max_deletions, max_fraction)
        return self._pruner().apply(plan, caps, max_age)

    async def rotate(
        self,
        server_id: int,
        retention: "_on_demand.Retention",
        *,
        description: str | None = None,
        make_room: bool = False,
        verify: "_on_demand.Verify | None" = None,
        timeout: float | None = 3600.0,
        backoff: Backoff | None = None,
        dry_run: bool = False,
    ) -> "_on_demand.Rotation":
        """Make a backup of the policy's job, verify it, then delete what the policy lets go.

        The server's manual backups are read completely first, so that a lost answer to the create
        is settled with certainty. The new backup has the label of `retention.job`, which must be
        set. It is waited for as `wait` does, with `backoff` for `timeout` seconds. It is verified
        if a fresh look shows it completed, with its label, and with a size above 0 and at least
        half the median of the job's last five that passed; a null one passes where theirs are too.
        With `verify`, a coroutine function that takes the backup, what that returns counts in place
        of the size. No check takes the place of a test restore.

        Those of the job whose sizes would be refused in the same way push out no others: what goes
        is what the policy lets go with them and without them.

        Whatever fails before that deletes nothing, an unknown outcome of the create included. Then
        the rest is as for `apply` with its usual limits.

        On a server with ten manual backups (`retention.quota`), a failed one of the job is deleted
        before, whatever its age. A good one only with `make_room`: exactly one, the oldest that the
        policy lets go once the new one is there (of a refused size, if any), and only if the job's
        newest attempt is verified too (with `verify`, by that), no backup is running, and
        `retention.min_keep` good ones stay. Otherwise the server refuses the create, and a note of
        the error says why there was no place.

        With `dry_run`, it reads only and does not call `verify`; the `Rotation` says what would be
        done, and its `plan.problem` why a create would be refused.

        Raises what `create` and `wait` raise, `errors.PruneRefusedError` if the policy does not fit
        into the quota of the server, the new backup is not verified or a limit is exceeded,
        `StalePlanError` if the backups change meanwhile, the error of the first deletion that
        failed, what `verify` raises, and `ValueError` for bad arguments. A note of the error says
        which backup was started.
        """
        options = _on_demand.RotateOptions(
            retention=retention,
            description=description,
            make_room=make_room,
            verify=verify,
            timeout=timeout,
            backoff=backoff,
            dry_run=dry_run,
        )
        return await self._rotator(options).rotate(server_id)

    def _looks(self) -> "_on_demand.Looks":
        return _on_demand.Looks(self._finder, self._shared.known, self._timeouts.attempt)

    def _pruner(self) -> "_on_demand.Pruner":
        return _on_demand.Pruner(self._looks(), self._deleting, self._session.monitor)

    def _deleting(self, before_again: BeforeAgain) -> "_on_demand.Delete":
        """The `delete` of this client or of a subclass, which first awaits this before a retry."""

        async def delete(backup_id: int) -> None:
            token = _before_again.set(before_again)
            try:
                await self.delete(backup_id)
            finally:
                _before_again.reset(token)

        return delete

    def _rotator(self, options: "_on_demand.RotateOptions") -> "_on_demand.Rotator":
        create = partial(self._creator.create, read_before=True)
        return _on_demand.Rotator(options, self._pruner(), create, self.wait)

    # --- Many servers --------------------------------------------------------------------------

    def fleet(
        self,
        server_ids: "_on_demand.Servers",
        *,
        concurrency: int | None = None,
    ) -> "_on_demand.Fleet":
        """The same verbs over many servers, `concurrency` of them at a time (None: 64).

        `server_ids` is any iterable or async iterable of ids or `Server` values, read lazily, or
        `ALL_SERVERS`: every server of the account. Raises `ValueError` for anything else, None
        included, and for a `concurrency` below 1.
        """
        return _on_demand.Fleet(
            self,
            server_ids,
            concurrency=concurrency,
            lists=self._lists,
            rotator=self._rotator,
        )

    # --- In a web application ------------------------------------------------------------------

    def background(
        self, work: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        """A task that runs the work in the background, after a web handler has answered say.

        The client keeps the task and logs how it ends, by its `name`: the result at INFO, with the
        backup if it is one, or the error at WARNING (ERROR with a traceback if it is not a
        `VPSBackupsError`). `close()` ends the waits within such work with an error that has the ref
        to wait for again, cancels what still runs a second later, and waits for its end.

        Raises `ConfigurationError` once the client is closed, `WrongEventLoopError` in another
        event loop than its own.
        """
        try:
            self._session.open()
            return self._shared.jobs.begin(work, name)
        except BaseException:
            work.close()
            raise

    def asgi_lifespan(self, app: "_on_demand.ASGIApp") -> "_on_demand.ASGIApp":
        """The ASGI application, with this client open from its startup to its shutdown.

        For an application without a lifespan of its own, such as Django's: lifespan events are not
        passed on to it.
        """
        return _on_demand.with_lifespan(app, self)

    # --- Life ----------------------------------------------------------------------------------

    def with_options(
        self, *, timeouts: Timeouts | None = None, retry: RetryPolicy | None = None
    ) -> Self:
        """A client that shares everything with this one but its timeouts and retries.

        What is None stays as it is here. Connections, limiter, retry budget, waits, background
        creates and jobs, `stats` and `on_event` are those of this client: a `keepalive` or `budget`
        given here has no effect, and the looks of waits, which all share, keep the timeouts and
        retries of the first client.

        It costs no request and needs no closing: closing this client ends it, and its own `close`
        and the end of its `async with` do nothing. So keep this client, and close it.

        Raises `ValueError` for anything but `Timeouts` and a `RetryPolicy`.
        """
        timeouts = self._timeouts if timeouts is None else timeouts
        retry = self._retry if retry is None else retry
        _check_options(timeouts, retry)
        other = object.__new__(type(self))  # of a subclass as well, with all that it added
        vars(other).update(vars(self))
        other._parent = self._parent or self
        other._set_options(timeouts, retry)
        return other

    @property
    def stats(self) -> ClientStats:
        """What this client has done so far, and the state of its limiter; sends nothing."""
        done, limiter = self._session.counters, self._session.guarded
        return ClientStats(
            done.requests,
            done.retries,
            done.rate_limited,
            done.bytes_received,
            limiter.count_of("limit"),
            limiter.count_of("running"),
            limiter.count_of("waiting"),
            limiter.closed_for(),
            self._session.rate_limit,
        )

    async def close(self) -> None:
        """End all waits, lists and background jobs, and close the connections.

        Calls that wait for their turn or in a pause end at once with `ConfigurationError`, and
        further calls are refused. It waits for creates that the server may be carrying out, also
        those whose callers were cancelled, so that their backups are known. Closing twice does no
        harm. On a client that `with_options` gave it does nothing: close the one that was asked for
        it.
        """
        if self._parent is not None:
            return
        try:
            await self._shared.close()
            closed = ConfigurationError("this client was closed during a list")
            await self._known_lists.aclose(closed)
        finally:
            await self._session.close()

    async def __aenter__(self) -> Self:
        self._session.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None and self._parent is None and session.abandon():
            warnings.warn(
                f"unclosed {self!r}: use 'async with BackupsClient(...)' or await its close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _check_options(timeouts: object, retry: object) -> None:
    if not isinstance(timeouts, Timeouts):
        raise ValueError(f"timeouts must be Timeouts, not {timeouts!r}")
    if not isinstance(retry, RetryPolicy):
        raise ValueError(f"retry must be a RetryPolicy, not {retry!r}")


def _check_retention(value: object) -> None:
    if not isinstance(value, _on_demand.Retention):
        raise ValueError(f"retention must be a Retention, not {value!r}")


def _known_and_ref(backup: object) -> tuple[Backup | None, BackupRef]:
    """What the caller knows of a backup to wait for, and the ids to find it by."""
    if isinstance(backup, Backup):
        return backup, _ref(backup.ref)
    if not isinstance(backup, BackupRef | int):
        raise ValueError(f"wait needs a Backup, a BackupRef or an id, not {backup!r}")
    return None, _ref(backup)


def _ref(backup: BackupRef | int) -> BackupRef:
    """The ref of a backup; raises `ValueError` for ids out of range."""
    ref = backup if isinstance(backup, BackupRef) else BackupRef(backup)
    check_int("id", ref.id)
    if ref.server_id is not None:
        check_int("server_id", ref.server_id)
    return ref
