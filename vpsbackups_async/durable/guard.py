"""The create guard: at most one backup for each server of a run, whatever is killed when.

Before a create is sent, its intent is written to the database. Who takes a server over and finds an
intent looks at the server's backups first: each create has a marker that no other one has.
"""

import asyncio
import logging
import math
import time
from contextlib import suppress
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from vpsbackups_async._creating.settling import may_create_again
from vpsbackups_async._tags import marker_of, same, with_labels
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.items import (
    AnsweredError,
    Item,
    Items,
    RepeatCancelledError,
    RunCancelledError,
    SupersededError,
)
from vpsbackups_async.durable.search import Found, Search, failed_before, is_of
from vpsbackups_async.durable.values import Limits, acts_before_create
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    ServerError,
    UnexpectedRedirectError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup

__all__ = ["Guard"]

logger: logging.Logger = logging.getLogger("vpsbackups_async")

_FIRST_PAUSE: Final = 0.5
_LEAST_PAUSE: Final = 0.1
_GROWTH: Final = 1.5
_MAX_PAUSE: Final = 120.0
_NOTE_PAUSE: Final = 0.5
_LATE: Final = 0.05
"""Seconds by which a create may miss its turn."""
_MOST_AHEAD: Final = 1000
"""How many creates of a worker may wait for their turns at once, without a rate."""
_TURNS_IN_TIME: Final = 5
"""At how many turns a create must be in time; a process that is always late sends it late."""
_MOST_TURNS: Final = 10
"""How many turns a create takes, before it fails because the limiter held it each time."""


class Guard:
    """Makes the backups of a worker's items, until `stopped` is set: then nothing more is sent.

    `rate` is how many creates may start a second, over all workers.
    """

    def __init__(
        self,
        client: WorkerClient,
        items: Items,
        limits: Limits,
        stopped: asyncio.Event,
        rate: float | None = None,
    ) -> None:
        # So many turns are reserved ahead: those of a worker that is killed pass unused.
        self._turns = asyncio.Semaphore(_MOST_AHEAD if rate is None else math.ceil(rate))
        self._client = client
        self._items = items
        self._limits = limits
        self._stopped = stopped
        self._waiting = 0
        self._cancelled: frozenset[str] = frozenset()
        self._keeps_markers = False
        self._sending: set[asyncio.Task[Any] | None] = set()
        self._unnoted: set[Item] = set()

    async def create(
        self,
        item: Item,
        description: str | None,
        *,
        job: str | None = None,
        is_searched: bool = False,
    ) -> Found:
        """The new backup of the item, or the one that an earlier create of it made.

        `is_searched` says that `find` has just told that none did, so that it is not asked again.
        Raises `CreateOutcomeUnknownError` if that cannot be told, what `BackupsClient.create`
        raises where it was refused, `RunCancelledError` where no more may be sent, and
        `SupersededError`.
        """
        labelled = with_labels(description, job=job)
        found = None if is_searched else await self.find(item, labelled)
        while found is None:
            before, was_open = item.posts, item.is_open
            try:
                return await self._make(item, labelled)
            except (CreateOutcomeUnknownError, AnsweredError):
                found = await self.find(item, labelled)
            except (BadRequestError, ConflictError) as error:
                is_first = not was_open and item.posts <= before + 1
                if is_first or _is_of_another(error):  # as was the answer to a look
                    raise
                # The server may be busy, or full, with the backup of an earlier create.
                found = await self.find(item, labelled, is_answered=not before)
                if found is None:
                    raise
            except RunCancelledError:
                if item.posts > before:  # by a 503, which does not prove that nothing was done
                    found = await self.find(item, labelled, is_answered=not before)
                if found is None:
                    raise
        await self._items.note_started(item, found.backup.id)
        return found

    async def twins(self, item: Item, backup_id: int) -> tuple[int, ...]:
        """The ids of other backups with a marker of the item, where several creates may have been.

        Those of former retries that failed are none: they were told of, or nothing depends on them.
        Empty where the server cannot be looked at: they are only to be told of.
        """
        if item.posts < 2 and len(item.markers) < 2:
            return ()
        try:
            look = await self._client.look(item.server_id)
        except VPSBackupsError as error:
            logger.debug("no look for twins of backup %s: %s", backup_id, error)
            return ()
        found = (
            one.id for one in look.backups if is_of(item, one) and not failed_before(item, one)
        )
        return tuple(sorted(one for one in found if one != backup_id))

    def is_sending(self, task: asyncio.Task[Any]) -> bool:
        """Whether the task has a create under way, which ends soon once the worker is stopped."""
        return task in self._sending

    async def _make(self, item: Item, labelled: str) -> Found:
        """A new backup, noted in the database; also if the worker is stopped meanwhile."""
        task, before = asyncio.current_task(), item.posts
        self._sending.add(task)
        try:
            made = await self._send(item, labelled, before + 1)
            await self._items.note_started(item, made.id)
        except (VPSBackupsError, RunCancelledError, _StoppedError) as error:
            told = await self._told(item, error)
            if isinstance(told, CreateOutcomeUnknownError):
                await self._note_answer(item, told.__cause__)
            elif item.posts == before + 1 and not _may_be_denied(error):  # refused, or not sent
                await self._items.note_posts(item, before)
            is_left = isinstance(told, CreateOutcomeUnknownError) and self._stopped.is_set()
            if is_left or isinstance(error, _StoppedError):
                raise asyncio.CancelledError from error
            if told is error:
                raise
            raise told from error
        finally:
            self._sending.discard(task)
        await self._learn(item, made)
        return Found(made)

    async def _told(self, item: Item, error: Exception) -> Exception:
        """What the error of a create tells: an answer that need not be the API's tells nothing.

        Unless a look is answered so, too, and no marker of ours has ever been seen: the URL is
        likely wrong then. A retry looks for the backup all the same.
        """
        if not _is_of_another(error):
            return error
        if not await self._are_markers_kept():
            try:
                await self._client.look(item.server_id)
            except VPSBackupsError as failure:
                if _is_of_another(failure):
                    return error
        unknown = CreateOutcomeUnknownError((), item.server_id, marker=item.marker)
        unknown.__cause__ = error
        return unknown

    async def _note_answer(self, item: Item, answer: BaseException | None) -> None:
        """Note if the server may still work on a create that ended so, before it is looked for.

        This process may be killed at any time, and who takes over would send it again.
        """
        if isinstance(answer, VPSBackupsError) and (
            may_create_again(answer) or _is_of_another(answer)
        ):
            return
        self._unnoted.add(item)
        is_ours = await self._items.note_at_work(item)
        self._unnoted.discard(item)
        if not is_ours:
            raise SupersededError

    @property
    def unnoted(self) -> list[int]:
        """The servers of which the database does not have yet that they may be at work."""
        return sorted(item.server_id for item in self._unnoted)

    async def note_rest(self) -> None:
        """Note what the database did not take before, once it does; for a worker that ends."""
        while self._unnoted:
            item = next(iter(self._unnoted))
            try:
                await self._items.note_at_work(item)
                self._unnoted.discard(item)
            except SQLAlchemyError as error:
                logger.debug("server %s cannot be noted: %s", item.server_id, error)
                await asyncio.sleep(_NOTE_PAUSE)

    async def find(self, item: Item, labelled: str, *, is_answered: bool = False) -> Found | None:
        """The backup that earlier creates of the item made; None if one may be sent now.

        `is_answered` says that each was refused or answered by a 503, as is known of those of a
        retry before. Raises `CreateOutcomeUnknownError` if it is not known after
        `Limits.unknown_for` seconds whether they made one.
        """
        if not item.is_open:
            return None
        is_answered = is_answered or not item.posts
        attempt, now = self._client.attempt_seconds, await self._items.now()
        search = Search(item, labelled, self._limits, attempt, now, is_answered=is_answered)
        pause, failure = _FIRST_PAUSE, None
        while True:
            try:
                look = await self._client.look(item.server_id)
            except AuthenticationError:
                raise
            except VPSBackupsError as error:
                failure = error
            else:
                await self._learn(item, *look.backups)
                if (found := search.take(look, self._client.is_given)) is not None:
                    self._client.adopt(found.backup)
                    if not item.posts:
                        await self._items.note_posts(item, 1)
                    return found
                if search.is_over and (is_answered or await self._are_markers_kept()):
                    return None
            if search.seconds >= search.ends_after:
                raise search.error() from failure
            next_after = search.ends_after if search.is_over else search.decides_after
            await asyncio.sleep(min(pause, max(next_after - search.seconds, _LEAST_PAUSE)))
            pause = min(_GROWTH * pause, _MAX_PAUSE)
            search.go_on(await self._items.now())

    async def _send(self, item: Item, labelled: str, posts: int) -> Backup:
        """Send the create at its turn, or at a later one where it comes too late to it.

        Raises `_StoppedError` if the worker is stopped before it is sent.
        """

        async def before_again() -> None:  # a 503 does not prove that nothing was done
            await self._items.intend_again(item, posts + 1)

        for turn in range(1, _MOST_TURNS + 1):
            sent = max(posts, item.posts)
            window = await self._window(item, sent, in_time=turn <= _TURNS_IN_TIME)
            try:
                return await self._client.begin(
                    item.server_id,
                    labelled,
                    item.marker,
                    is_too_late=window.is_over,
                    before_again=before_again,
                )
            except DeadlineExceededError:
                if not window.was_over or turn == _MOST_TURNS:
                    raise
            except ConfigurationError:  # the client was closed
                if not self._stopped.is_set():
                    raise
            if self._stopped.is_set():
                break
        raise _StoppedError

    async def _window(self, item: Item, posts: int, *, in_time: bool) -> "_Window":
        """The time within which the create may be sent, once it has begun.

        Where others have their turns right after it, it must be sent `in_time`, at its turn: a
        process that is busy would send several at once. Raises as `Items.intend`, also where the
        run is known to have been cancelled meanwhile.
        """
        async with self._turns:
            if self._stopped.is_set():
                raise _StoppedError
            began, began_utc = time.monotonic(), time.time()
            turn = await self._items.intend(item, self._limits.start_within, posts)
            self._waiting += 1
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), turn.starts_at - time.monotonic())
            finally:
                self._waiting -= 1
            await self._check_cancelled(item)
        end = began + turn.ends_in
        if in_time and turn.is_paced:
            end = min(end, turn.starts_at + _LATE)
        return _Window(end, began_utc + turn.ends_in, self._stopped)

    async def learn_cancels(self) -> None:
        """Look which runs are cancelled, if any create waits for its turn.

        Not just before each create is sent: it would come late to its turn.
        """
        if self._waiting:
            self._cancelled = await self._items.cancelled_runs()

    async def _check_cancelled(self, item: Item) -> None:
        nonce = item.run.nonce
        if nonce not in self._cancelled or acts_before_create(item.run.task):
            return
        if nonce in await self._items.cancelled_runs():  # it may have been retried since
            raise RunCancelledError

    async def _learn(self, item: Item, *backups: Backup) -> None:
        """Note if the API is seen to keep a marker, so that looks for one tell something."""
        if self._keeps_markers:
            return
        kept = {marker_of(one.description) for one in backups}
        if any(same(one, own) for one in kept for own in item.markers):
            await self._items.note_markers()
            self._keeps_markers = True

    async def _are_markers_kept(self) -> bool:
        if not self._keeps_markers:
            self._keeps_markers = await self._items.keeps_markers()
        return self._keeps_markers


def _is_of_another(answer: BaseException | None) -> bool:
    """Whether the answer may be of a gateway, say, behind which the create was carried out."""
    if isinstance(answer, ApiError):
        is_refused = answer.from_api or answer.status == 429 or answer.attempts == 0
        return answer.status < 500 and not is_refused
    return isinstance(answer, UnexpectedRedirectError)


def _may_be_denied(answer: Exception) -> bool:
    """Whether what was carried out may have been answered so, by a gateway: a 503 or a page, say.

    A retry looks for the backup then, before another create is sent.
    """
    if isinstance(answer, ServerError):
        return answer.in_doubt
    if isinstance(answer, ApiError):  # the token or the rate is looked at before all else
        return not answer.has_api_form and answer.status not in {401, 429}
    return isinstance(answer, UnexpectedRedirectError | RepeatCancelledError)


class _StoppedError(Exception):
    """The worker was stopped, and nothing was sent."""


class _Window:
    """The time within which a create may be sent, by two clocks: one stops while a machine sleeps.

    It is counted from before the database was asked, so that it ends no later than that was told.
    """

    def __init__(self, end: float, end_utc: float, stopped: asyncio.Event) -> None:
        self._end = end
        self._end_utc = end_utc
        self._stopped = stopped
        self.was_over = False

    def is_over(self) -> bool:
        """Whether nothing may be sent any more."""
        over = time.monotonic() > self._end or time.time() > self._end_utc
        self.was_over = self.was_over or over or self._stopped.is_set()
        return over or self._stopped.is_set()
