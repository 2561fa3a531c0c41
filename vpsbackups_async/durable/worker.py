"""A worker: takes servers off the queue, and takes over what dead workers left behind."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Final, TypeAlias, TypeVar

from sqlalchemy import exc

from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import EngineClient, EngineWorker, working_on
from vpsbackups_async.durable.items import Items
from vpsbackups_async.durable.ownership import demand
from vpsbackups_async.durable.roll import Listed, Unchanged
from vpsbackups_async.durable.schedules import Nights
from vpsbackups_async.durable.slots import COUNT, open_slots
from vpsbackups_async.durable.store import Store
from vpsbackups_async.durable.values import Limits
from vpsbackups_async.durable.work import Work
from vpsbackups_async.errors import ConfigurationError, DatabaseError, WorkerStoppedError

__all__ = ["IsDone", "Worker"]

T = TypeVar("T")

IsDone: TypeAlias = Callable[[], Awaitable[bool]]
"""Says whether nothing is left to do."""

logger: logging.Logger = logging.getLogger("vpsbackups_async")

_BEAT: Final = 1.0
"""Seconds between two looks whether the slot is held; PostgreSQL takes it after 30 s of silence."""
_TAKEOVER: Final = 2.0
_SILENT_LOOKS: Final = 15
"""Looks for dead workers over which one that holds its slot must be silent to be taken over."""
_STRAY_LOOKS: Final = 5
"""Looks over which what the engine handed out to a worker must be none of its tasks to be a stray.

The engine hands out thousands at once, and then starts them one by one.
"""
_ANSWER_WITHIN: Final = 20.0
"""Seconds after which a database that does not answer is taken for lost; before the slot is."""
_CANCELS: Final = 0.1
"""Seconds between two looks whether a run was cancelled, while creates wait for their turns."""
_IDLE: Final = 0.25
_CATCH_UP: Final = 30.0
"""Seconds between two looks for nights that were missed."""


class Worker:
    """One worker of a database, with a client of its own; `account` names whose database it is."""

    def __init__(
        self,
        database: Database,
        engine: EngineClient,
        client: WorkerClient,
        limits: Limits,
        account: str | None,
    ) -> None:
        self._database = database
        self._engine = engine
        self._client = client
        self._limits = limits
        self._account = account
        self._items = Items(database, client.mask)
        self._nights = Nights(client, Store(database), engine, self._fail)
        self._slots = open_slots(database)
        # Of its own, so that nothing holds up the sign of life; and one, as its connection is.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vpsbackups-slot")
        self._slot = -1
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._signal: signal.Signals | None = None
        self.unsettled: int = 0
        """How many creates a second signal left on the wire, once `run` has ended."""

    @property
    def unsubmitted(self) -> Mapping[str, str]:
        """The runs of schedules that it could not submit, by the engine's ids of their nights."""
        return self._nights.unsubmitted

    async def run(
        self, *, is_done: IsDone | None, on_start: Callable[[int], object] | None
    ) -> signal.Signals | None:
        """Work until SIGTERM or SIGINT, or until `is_done` says so; the signal, if one came.

        `on_start` is called with the number of the slot once it begins. Raises
        `AuthenticationError` if the token is refused, `WorkerStoppedError` once it no longer holds
        its slot, `ConfigurationError` for another account's token and beside a worker of
        another database, `DatabaseError` if the database
        fails.
        """
        try:
            with working_on(self._database):
                await self._run(is_done, on_start)
        except exc.SQLAlchemyError as error:
            raise self._database.failed(error) from None
        return self._signal

    async def _run(self, is_done: IsDone | None, on_start: Callable[[int], object] | None) -> None:
        await demand(self._database, self._client, self._account)
        limits = self._limits
        rate, concurrency = await self._items.set_limits(limits.rate, limits.concurrency)
        work = Work(self._client, self._items, limits, self._fail, rate)
        try:
            slot = self._slot = await self._take()
            await self._hand_out_again(slot)
            await self._database.call(
                lambda: self._engine.set_limits(rate=rate, concurrency=concurrency)
            )
            engine = EngineWorker(self._database, slot, work.do, self._nights.do)
            with _signals(partial(self._on_signal, work.hurry)):
                try:
                    engine.start()
                    await self._database.call(self._engine.catch_up)
                    if on_start is not None:
                        on_start(slot)
                    await self._until_end(is_done, work, engine)
                finally:
                    # Its slot may be another's by now, who has no part in what it would take.
                    engine.take_no_more()
                    await self._nights.stop()
                    await work.stop()
                    self.unsettled = work.unsettled
                    await engine.stop()
        finally:
            with suppress(WorkerStoppedError):
                await self._in_thread(self._slots.release)
            self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What the function returns that asks for slots.

        Raises `WorkerStoppedError` if the database does not answer, and cuts all connections then:
        where a network swallows what is sent, nothing else would end.
        """
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            self._database.cut()
            raise WorkerStoppedError(
                f"the database did not answer this worker for {_ANSWER_WITHIN:g} seconds"
            ) from None

    async def _take(self) -> int:
        try:
            return await self._in_thread(self._slots.take)
        except exc.DBAPIError as error:
            raise self._database.unusable(error) from None

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _on_signal(self, hurry: Callable[[], None], number: signal.Signals) -> None:
        if self._signal is None:
            self._signal = number
            self._stop()
        else:
            hurry()

    def _stop(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    async def _until_end(self, is_done: IsDone | None, work: Work, engine: EngineWorker) -> None:
        loops: list[Callable[[], Awaitable[None]]] = [
            self._beat,
            partial(self._take_over, engine),
            partial(self._learn_cancels, work),
            self._catch_up,
        ]
        if is_done is not None:
            loops.append(partial(self._watch, is_done))
        tasks = [asyncio.create_task(self._guarded(one)) for one in loops]
        try:
            await self._end
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except Exception as error:  # noqa: BLE001  # whatever ends one ends the worker
            self._fail(error)

    async def _beat(self) -> None:
        """End the worker once its slot is lost, or its database was closed."""
        while True:
            await asyncio.sleep(_BEAT)
            self._database.check_open()
            if not await self._in_thread(self._slots.is_held):
                raise WorkerStoppedError("this worker lost its slot in the database")

    async def _learn_cancels(self, work: Work) -> None:
        while True:
            await asyncio.sleep(_CANCELS)
            await work.learn_cancels()

    async def _catch_up(self) -> None:
        """Do the nights that were missed, as one is whose schedule was made just before it."""
        while True:
            await asyncio.sleep(_CATCH_UP)
            try:
                await self._database.call(self._engine.catch_up)
            except (exc.SQLAlchemyError, DatabaseError, ConfigurationError) as error:
                logger.debug("no look for missed nights: %s", error)

    async def _watch(self, is_done: IsDone) -> None:
        """End the worker once nothing is left to do."""
        while True:
            # While the database is away, it is the slot that ends the worker.
            with suppress(ConfigurationError):
                if await is_done():
                    return self._stop()
            await asyncio.sleep(_IDLE)

    async def _take_over(self, engine: EngineWorker) -> None:
        """Hand out again what nobody works on: of dead workers, of silent ones, and strays."""
        silence, strays = Unchanged[Listed](_SILENT_LOOKS), Unchanged[str](_STRAY_LOOKS)
        while True:
            await asyncio.sleep(_TAKEOVER)
            try:
                await self._database.run(self._engine.free_started_ahead)
                await self._taken_over(silence)
                await self._collected(strays, engine)
            except (exc.SQLAlchemyError, DatabaseError, ConfigurationError) as error:
                logger.debug("no look for dead workers: %s", error)

    async def _collected(self, strays: Unchanged[str], engine: EngineWorker) -> None:
        """Hand out again what this worker is to work on, by the engine, and does not.

        Another worker that lost this slot had taken it, say, or the engine got no answer from the
        database when it took it.
        """
        begun = await self._begun(self._slot)
        left = strays.take(begun - engine.under_way)
        if left:
            await self._database.call(lambda: self._engine.hand_out_again(left))
            logger.info("handed out again %s servers on which nobody worked", len(left))

    async def _taken_over(self, silence: Unchanged[Listed]) -> None:
        listed = await self._in_thread(self._slots.roll.all)
        silent = {one.slot: one for one in silence.take(listed)}
        others = await self._in_thread(self._slots.maybe_free)
        # Whose file is gone, too, unless nothing could be read.
        unlisted = set(range(COUNT)) - {one.slot for one in listed} if listed else set()
        slots = {*others, *silent, *unlisted} - {self._slot}
        left = await self._database.run(partial(self._engine.left_behind, slots=slots))
        for slot in sorted(left | (silent.keys() & set(others))):
            held = await self._in_thread(partial(self._slots.hold, slot))
            try:
                if held or (slot in left and await self._is_dismissed(silent.get(slot))):
                    await self._hand_out_again(slot)
                if held:
                    await self._in_thread(partial(self._slots.roll.strike, slot))
            finally:
                if held:
                    await self._in_thread(partial(self._slots.let_go, slot))

    async def _is_dismissed(self, worker: Listed | None) -> bool:
        """Whether a worker that holds its slot is silent, and ends once it wakes.

        What it had may be handed out: each of its creates is noted, and sent within its window or
        never; who takes a server over waits that out, and looks.
        """
        if worker is None or not await self._in_thread(partial(self._slots.roll.dismiss, worker)):
            return False
        logger.warning("worker %s does not answer: end its process", worker.slot)
        return True

    async def _hand_out_again(self, slot: int) -> None:
        begun = await self._begun(slot)
        if begun:
            await self._database.call(lambda: self._engine.hand_out_again(begun))
            logger.info("took over %s servers from worker %s", len(begun), slot)

    async def _begun(self, slot: int) -> set[str]:
        return await self._database.run(partial(self._engine.begun, slot=slot))


@contextmanager
def _signals(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call the function on SIGTERM and SIGINT in the block, where that can be done.

    Not by `loop.add_signal_handler`: that would take the place of the application's own handler in
    the loop, which nothing can read and put back. So that one is called, too.
    """
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if in_main and sys.platform != "win32" else ()
    loop = asyncio.get_running_loop()

    def come(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # part of the protocol
        loop.call_soon_threadsafe(stop, signal.Signals(number))  # wakes the loop as well

    before = {number: signal.getsignal(number) for number in numbers}
    # None is a handler that was set in C, which could not be put back.
    taken = {number: handler for number, handler in before.items() if handler is not None}
    for number in taken:
        signal.signal(number, come)
        signal.siginterrupt(number, False)  # calls to the system go on after it
    try:
        yield
    finally:
        for number, handler in taken.items():
            if signal.getsignal(number) is come:  # else somebody set another one meanwhile
                signal.signal(number, handler)
