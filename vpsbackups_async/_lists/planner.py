"""What to read for wanted backups: one sweep through the list of all, servers' lists, or both.

What the pages tell (order, length, ignored filters) and which lists failed make the next plan
better; nothing relies on it.
"""

import asyncio
import math
import sys
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from vpsbackups_async._lists.estimate import ListShape
from vpsbackups_async._lists.lists import PAGE_SIZE, ListQuery, Lists
from vpsbackups_async._lists.pace import Pace
from vpsbackups_async._lists.troubles import Standing, State, Troubles, pause_of
from vpsbackups_async._lists.walk import Walk
from vpsbackups_async._lists.wanted import Key, Unseen, Wanted
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._wire import Response
from vpsbackups_async.errors import RateLimitedError, VPSBackupsError
from vpsbackups_async.models import Backup

__all__ = ["RETRIED", "Finding", "OnAttempt", "Plan", "Planner", "by_server"]

RETRIED: Final = 10.0
"""Seconds for which a page of a list is tried again before its look has failed."""
_WAITED_FOR: Final = 120.0
"""Seconds of a pause of the whole list that many waits wait for, as a call does by default."""
_FEW: Final = 16
"""Servers that are asked for their lists in any case while the whole list pauses."""
_IGNORED: Final = 600.0
"""Seconds for which a server that ignored `server_id` is not asked for filtered lists again."""
_FINE: Final = Standing(State.FINE, 0)
_NEVER: Final = Standing(State.PAUSED, sys.maxsize)
"""The standing of a server's list that cannot be asked for, or would be that of all servers."""

OnAttempt = Callable[[int | None, VPSBackupsError | None], object]
"""Called with a list, by its server's id, and the error of an attempt that is to be followed by
another one, None for an attempt that got an answer."""


class Finding(msgspec.Struct, frozen=True):
    """What one page of the whole list, or one server's list, told about the wanted backups.

    `found` are the backups that it showed. `absent` are the keys of those that are certainly not
    there, `failed` of those that could not be looked for because of `error`. `left` are those that
    another list is to be asked for. `requests` were sent for it. `server_id` is None for the whole
    list.
    """

    server_id: int | None
    found: tuple[Backup, ...] = ()
    absent: frozenset[Key] = frozenset()
    failed: frozenset[Key] = frozenset()
    error: VPSBackupsError | None = None
    requests: int = 0
    left: tuple[Wanted, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What to read for wanted backups: the whole list for some, servers' lists for others.

    `paused` are findings about those whose lists asked to be left alone.
    """

    sweep: list[Wanted]
    servers: dict[int, list[Wanted]]
    paused: list[Finding]


class Planner:
    """Decides what to read, by what the lists of one client were like so far."""

    def __init__(self, lists: Lists) -> None:
        self.troubles = Troubles()
        self.pace = Pace()
        self._lists = lists
        self._shapes: dict[bool, ListShape] = {}  # by whether only manual backups were asked for
        self._stuck: set[Walk[Backup]] = set()  # sweeps whose last attempt failed
        self._ignored_at = -math.inf

    def plan(self, wanted: Iterable[Wanted], *, heed_failures: bool = True) -> Plan:
        """What to read for the wanted backups, with as few requests as it can.

        With `heed_failures` a list that failed twice in a row is not read where there is another
        way, and one that asked to be left alone is not read at all.
        """
        now = asyncio.get_running_loop().time()
        whole = self._whole(now) if heed_failures else _FINE
        # While no server's list works, also those that never failed are left to one that does.
        sweep_first = heed_failures and self.troubles.none_works and whole.failures == 0
        plan = Plan([], {}, [])
        either: list[Wanted] = []
        direct: list[Wanted] = []
        for one in wanted:
            server = _NEVER
            if one.server_id is not None and not self.ignores_servers(now):
                server = self.troubles.standing(one.server_id, now) if heed_failures else _FINE
            if min(server, whole).state == State.PAUSED:
                error = self.troubles.error(one.server_id) or self.troubles.error(None)
                plan.paused.append(Finding(one.server_id, failed=frozenset({one.key}), error=error))
            elif server.state == whole.state == State.FINE:
                (plan.sweep if sweep_first else either).append(one)
            elif server <= whole:
                direct.append(one)
            else:
                plan.sweep.append(replace(one, by_server=False))
        if self._sweep_pays(either) and not (heed_failures and self._sweep_lasts(either, now)):
            plan.sweep.extend(either)
        else:
            direct += either
        if whole.state == State.FAILING and self._may_try_whole(now) and self._sweep_pays(direct):
            plan.sweep.extend(direct)
            direct = []
        servers = by_server(direct)
        waits = heed_failures and self.waits_for_whole(len(servers), now)
        if waits and self._sweep_pays(direct):
            keys = frozenset(one.key for one in direct)
            plan.paused.append(Finding(None, failed=keys, error=self.troubles.error(None)))
        else:
            plan.servers.update(servers)
        return plan

    def _sweep_pays(self, wanted: list[Wanted]) -> bool:
        """Whether a sweep takes fewer requests than one to each server."""
        unseen = Unseen(wanted)
        return bool(unseen and unseen.pages_worth_reading(self.pages_to(unseen)))

    def _sweep_lasts(self, wanted: list[Wanted], now: float) -> bool:
        """Whether a sweep would take too long, and servers' lists less time."""
        unseen = Unseen(wanted)
        pages = unseen.pages_worth_reading(self.pages_to(unseen))
        return self.pace.is_slower(pages, unseen.servers, now)

    def _whole(self, now: float) -> Standing:
        standing = self.troubles.standing(None, now)
        # Others need not wait until the sweep under way gets an answer, or gives up.
        return max(standing, Standing(State.FAILING, 0)) if self._stuck else standing

    def _may_try_whole(self, now: float) -> bool:
        """Whether to try the whole list before asking the servers that it leaves if it fails."""
        return not self._stuck and self.troubles.may_try_first(None, now)

    def waits_for_whole(self, servers: float, now: float) -> bool:
        """Whether the whole list's pause is waited for, where else so many servers were asked."""
        return servers > _FEW and 0 < self.troubles.pause(None, now) <= _WAITED_FOR

    def ignores_servers(self, now: float) -> bool:
        """Whether a list filtered by server was the whole list, when it was last asked for."""
        return "server_id" in self._lists.ignored_filters and now < self._ignored_at + _IGNORED

    def pages_to(self, unseen: Unseen) -> Callable[[int], float]:
        """About how many pages it takes to reach a backup; before the first sweep, at least."""
        shape = self._shapes.get(unseen.manual)
        if shape is None:
            return lambda _: math.ceil(len(unseen) / PAGE_SIZE)
        newest = unseen.newest
        return lambda backup_id: shape.pages_from_top(backup_id, newest)

    def learn_shape(self, shape: ListShape, *, manual: bool) -> None:
        """Remember what a sweep showed of the whole list, or of its manual backups."""
        self._shapes[manual] = shape

    def is_whole(self) -> bool:
        """Whether the page that a server's list just gave shows that `server_id` is ignored."""
        if "server_id" not in self._lists.ignored_filters:
            return False
        self._ignored_at = asyncio.get_running_loop().time()
        return True

    def open(
        self,
        query: ListQuery[Backup],
        server_id: int | None,
        on_attempt: OnAttempt | None,
        prefetch: int = 0,
        send: SendState | None = None,
    ) -> Walk[Backup]:
        """A walk; with `on_attempt` each page is tried again for a short while only.

        `send` watches its requests then.
        """
        if on_attempt is None:
            return self._lists.open(query, prefetch=prefetch)
        loop, troubles = asyncio.get_running_loop(), self.troubles
        last_answer = loop.time()

        def answered(_: Response) -> None:
            nonlocal last_answer
            last_answer = loop.time()
            self._stuck.discard(walk)
            if server_id is None and send is not None and send.began:
                self.pace.page_answered(last_answer - send.began[-1], last_answer)
            on_attempt(server_id, None)

        def failed(error: VPSBackupsError) -> None:
            if server_id is None:
                self._stuck.add(walk)
            troubles.attempt_failed(server_id, error)
            on_attempt(server_id, error)
            if isinstance(error, RateLimitedError):
                if server_id is not None and send is not None and _lasts(error, send, loop.time()):
                    raise error  # the lists that were not asked for yet come first
                return
            failed_before = troubles.standing(server_id, loop.time()).failures > 0
            is_doubtful = failed_before or (server_id is not None and troubles.none_works)
            late = loop.time() - last_answer + pause_of(error) > RETRIED
            if late or (is_doubtful and not walk.pages_read):
                raise error  # the next look tries again, or another way

        walk = self._lists.open(
            query, prefetch=prefetch, on_response=answered, on_retry=failed, send=send
        )
        return walk

    def ended(self, walk: Walk[Backup]) -> None:
        """Note that a walk has ended, well or not."""
        self._stuck.discard(walk)


def _lasts(error: RateLimitedError, send: SendState, now: float) -> bool:
    """Whether a list has been refused, or is about to be, for longer than a moment."""
    began = send.began[0] if send.began else now
    return now - began + (error.retry_after or 0.0) > RETRIED


def by_server(wanted: Iterable[Wanted]) -> dict[int, list[Wanted]]:
    """The wanted backups by the servers whose lists are to be asked."""
    servers: dict[int, list[Wanted]] = {}
    for one in wanted:
        if one.server_id is not None:
            servers.setdefault(one.server_id, []).append(one)
    return servers
