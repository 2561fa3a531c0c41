"""The looks of a hub that are under way, side by side: at most one at each list."""

import asyncio
import itertools
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Container,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from vpsbackups_async._lists.planner import Finding, OnAttempt, Plan, by_server
from vpsbackups_async._lists.wanted import Key, Wanted
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._waiting.waiter import Batch, Look, Waiter
from vpsbackups_async.errors import PermissionDeniedError, VPSBackupsError

__all__ = ["Looks", "Searches"]


class Searches(Protocol):
    """What looks need of a `Search`."""

    def plan(self, wanted: Iterable[Wanted]) -> Plan: ...

    def sweep(
        self,
        wanted: Iterable[Wanted],
        known: Container[int],
        *,
        on_attempt: OnAttempt,
        send: SendState,
    ) -> AsyncGenerator[Finding]: ...

    def servers(
        self,
        wanted: dict[int, list[Wanted]],
        known: Container[int],
        *,
        on_attempt: OnAttempt,
        sends: Mapping[int, SendState],
    ) -> AsyncGenerator[Finding]: ...


class Looks:
    """Begins looks and carries them out.

    `known` has the ids of all backups that are waited for. `show` is called with each finding of a
    look, `end` with a look that ended and its last finding. `refused` is called when a 403 of the
    list of all servers was followed by those of servers' lists, and by no other answer.
    `attempted` is called with a look and the error of an attempt that another one follows, or with
    None for an attempt that got an answer.
    """

    def __init__(
        self,
        search: Searches,
        known: Container[int],
        *,
        show: Callable[[Look, Finding], None],
        end: Callable[[Look, Finding], None],
        attempted: Callable[[Look, VPSBackupsError | None], None],
        refused: Callable[[], None],
    ) -> None:
        self._search = search
        self._known = known
        self._show = show
        self._end = end
        self._attempted = attempted
        self._refused = refused
        self._under_way: dict[int | None, Look] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, due: Iterable[Waiter], batch: Batch) -> None:
        """Look for the backups of these waiters; who wants a list under way waits for its end."""
        wanted: dict[Key, Wanted] = {}
        waiters: dict[Key, list[Waiter]] = {}
        for waiter in due:
            one = waiter.wanted()
            other = wanted.get(one.key, one)
            proof, manual = one.proof or other.proof, one.manual and other.manual
            wanted[one.key] = replace(one, proof=proof, manual=manual)
            waiters.setdefault(one.key, []).append(waiter)
        plan = self._search.plan(wanted.values())
        for finding in plan.paused:
            look = Look(finding.server_id, batch, {key: waiters[key] for key in finding.failed})
            for waiter in itertools.chain.from_iterable(look.waiters.values()):
                waiter.look = look
            self._end(look, finding)
        if plan.sweep:
            look = Look(None, batch, {one.key: waiters[one.key] for one in plan.sweep})
            if self._claim(look):
                self._start(partial(self._sweep, look, plan.sweep), [look])
        self._at_servers(plan.servers, waiters, batch)

    def stop(self) -> list[asyncio.Task[None]]:
        """Cancel the looks under way; their tasks, which may take a moment to end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self._under_way.clear()
        return tasks

    def _claim(self, look: Look) -> bool:
        """Begin a look if none at the same list is under way; else its waiters wait for that."""
        first = self._under_way.setdefault(look.server_id, look)
        for waiters in look.waiters.values():
            for waiter in waiters:
                waiter.look = first
            if first is not look:
                first.behind += waiters
        return first is look

    def _start(self, work: Callable[[], Awaitable[None]], looks: Collection[Look]) -> None:
        task = asyncio.create_task(self._carried_out(work, looks), name="vpsbackups-look")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carried_out(
        self, work: Callable[[], Awaitable[None]], looks: Collection[Look]
    ) -> None:
        try:
            await work()
        except BaseException as error:
            # An error here must not leave a wait without an end.
            for waiter in [waiter for look in looks for waiter in look.concerned()]:
                waiter.fail(error) if isinstance(error, Exception) else waiter.future.cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            for look in looks:
                self._release(look)

    def _release(self, look: Look) -> None:
        if self._under_way.get(look.server_id) is look:
            del self._under_way[look.server_id]

    def _finish(self, look: Look, finding: Finding) -> dict[Key, list[Waiter]]:
        """End a look; the waiters of what it has left to other lists."""
        self._release(look)
        left = {
            one.key: [waiter for waiter in look.waiters.pop(one.key) if waiter.look is look]
            for one in finding.left
        }
        self._end(look, finding)
        return {key: waiters for key, waiters in left.items() if waiters}

    # --- What the tasks do ---------------------------------------------------------------------

    async def _sweep(self, look: Look, wanted: list[Wanted]) -> None:
        """Look at the list of all servers, and then at those of servers that this leaves."""
        absent: frozenset[Key] = frozenset()
        last = Finding(None)

        def attempted(_: int | None, error: VPSBackupsError | None) -> None:
            self._attempted(look, error)

        async with aclosing(
            self._search.sweep(wanted, self._known, on_attempt=attempted, send=look.send)
        ) as findings:
            async for last in findings:
                absent |= last.absent
                self._show(look, last)
        left = self._finish(look, replace(last, absent=absent))
        servers = by_server(one for one in last.left if one.key in left)
        self._at_servers(
            servers, left, look.batch, refused=isinstance(last.error, PermissionDeniedError)
        )

    def _at_servers(
        self,
        wanted: dict[int, list[Wanted]],
        waiters: dict[Key, list[Waiter]],
        batch: Batch,
        *,
        refused: bool = False,
    ) -> None:
        """Begin looks at servers' lists; `refused` is whether the list of all was, by a 403."""
        looks: dict[int | None, Look] = {}
        mine: dict[int, list[Wanted]] = {}
        for server_id, those in wanted.items():
            look = Look(server_id, batch, {one.key: waiters[one.key] for one in those})
            if self._claim(look):
                looks[server_id], mine[server_id] = look, those
        if looks:
            self._start(partial(self._servers, looks, mine, refused=refused), looks.values())

    async def _servers(
        self, looks: dict[int | None, Look], wanted: dict[int, list[Wanted]], *, refused: bool
    ) -> None:
        """Look at servers' lists, each of which ends its own look."""

        def attempted(server_id: int | None, error: VPSBackupsError | None) -> None:
            self._attempted(looks[server_id], error)

        sends = {server_id: looks[server_id].send for server_id in wanted}
        findings = self._search.servers(wanted, self._known, on_attempt=attempted, sends=sends)
        async with aclosing(findings):
            async for finding in findings:
                look = looks[finding.server_id]
                self._show(look, finding)
                refused = refused and isinstance(finding.error, PermissionDeniedError)
                left = self._finish(look, finding)
                self.begin(itertools.chain.from_iterable(left.values()), look.batch)
        if refused:
            self._refused()
