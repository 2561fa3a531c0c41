"""`fan_out`: one outcome for each item, a bounded number at once, nothing left behind."""

import asyncio
import gc
import itertools
import sys
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from helpers_streams import drain
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import (
    BackupsClient,
    NotAttemptedError,
    Outcome,
    Progress,
    VPSBackupsError,
    fan_out,
)
from vpsbackups_async._bulk.fan_out import FanOut
from vpsbackups_async._bulk.meter import Meter
from vpsbackups_async._bulk.places import without_place
from vpsbackups_async._bulk.source import open_source
from vpsbackups_async.testing import FakeVPS

Outcomes = list[Outcome[Any, Any]]


async def double(number: int) -> int:
    return number * 2


async def trickle(items: Iterable[Any], seconds: float = 0.0) -> AsyncIterator[Any]:
    """The items, with a pause before each."""
    for item in items:
        await asyncio.sleep(seconds)
        yield item


def plain(items: Iterable[Any]) -> Iterable[Any]:
    return items


SOURCES = [plain, trickle]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("concurrency", [1, 2, 7, 1000, None])
async def test_each_item_has_exactly_one_outcome(source: Any, concurrency: int | None) -> None:
    items = [*range(50), 3, 3, 3]
    came = [o async for o in fan_out(double, source(items), concurrency=concurrency)]
    assert Counter(o.key for o in came) == Counter(items)
    assert all(o.ok and o.unwrap() == o.key * 2 for o in came)


@pytest.mark.parametrize("source", SOURCES)
async def test_no_items_are_no_outcomes(source: Any) -> None:
    assert [o async for o in fan_out(double, source([]))] == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_outcomes_come_as_they_end(source: Any) -> None:
    async def work(seconds: int) -> None:
        await asyncio.sleep(seconds)

    start = asyncio.get_running_loop().time()
    async for outcome in fan_out(work, source([3, 1, 4, 2]), concurrency=4):
        assert asyncio.get_running_loop().time() - start == pytest.approx(outcome.key, abs=0.01)
    assert asyncio.get_running_loop().time() - start == pytest.approx(4, abs=0.01)


@given(
    jobs=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
    concurrency=st.none() | st.integers(1, 8),
    source=st.sampled_from(SOURCES),
    yields=st.integers(0, 3),
    follows=st.booleans(),
    max_running=st.none() | st.integers(1, 8),
)
def test_any_mix_of_delays_and_failures_is_settled_once(
    jobs: list[tuple[int, bool]],
    concurrency: int | None,
    source: Any,
    yields: int,
    follows: bool,
    max_running: int | None,
) -> None:
    starting = peak = 0
    running = most = 0

    async def start(place: int) -> int:
        nonlocal starting, peak, running, most
        starting += 1
        running += 1
        peak, most = max(peak, starting), max(most, running)
        try:
            return place if follows else await follow(place)
        finally:
            starting -= 1

    async def follow(place: int) -> int:
        nonlocal running
        delay, fails = jobs[place]
        for _ in range(delay):
            await asyncio.sleep(0)
        running -= 1
        if fails:
            raise LookupError(place)
        return place

    async def go() -> Outcomes:
        came = []
        outcomes = two_steps(
            start,
            follow if follows else None,
            source(range(len(jobs))),
            concurrency=concurrency,
            max_running=max_running,
        )
        async for outcome in outcomes:
            came.append(outcome)
            for _ in range(yields):
                await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        return came

    came = asyncio.run(go())
    assert sorted(o.key for o in came) == list(range(len(jobs)))
    assert starting == running == 0
    assert peak <= (concurrency or len(jobs))
    assert most <= (max_running or len(jobs))
    for o in came:
        assert o.ok is not jobs[o.key][1]
        assert o.value == (o.key if o.ok else None)
        assert o.ok or o.error.args == (o.key,)


@pytest.mark.parametrize("source", SOURCES)
async def test_live_tasks_stay_at_the_concurrency_over_a_long_generator(source: Any) -> None:
    total = 200_000 if source is plain else 20_000
    if asyncio.get_running_loop().get_debug():  # which keeps the stack of each task
        total //= 10
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        if not number % 100:
            most = max(most, len(asyncio.all_tasks()))

    before = len(asyncio.all_tasks())
    count = 0
    async for _ in fan_out(work, source(iter(range(total))), concurrency=16):
        count += 1
    assert count == total
    assert most - before <= 17
    assert most - before >= 16 or source is trickle  # there the items are what is slow


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("concurrency", [1, 5])
async def test_a_slow_reader_is_at_most_the_concurrency_behind(
    source: Any, concurrency: int
) -> None:
    begun = 0

    async def work(_: int) -> None:
        nonlocal begun
        begun += 1

    async with aclosing(fan_out(work, source(range(100)), concurrency=concurrency)) as outcomes:
        read = 0
        async for _ in outcomes:
            read += 1
            await asyncio.sleep(1)
            assert begun <= read + concurrency
    assert read == begun == 100


@pytest.mark.virtual_time
async def test_a_slow_async_iterable_holds_nothing_up() -> None:
    async def work(_: int) -> None:
        await asyncio.sleep(0.5)

    start = asyncio.get_running_loop().time()
    times = []
    async for _ in fan_out(work, trickle(range(4), 10), concurrency=3):
        times.append(asyncio.get_running_loop().time() - start)
    assert times == [pytest.approx(10 * n + 0.5, abs=0.01) for n in (1, 2, 3, 4)]


@pytest.mark.virtual_time
async def test_outcomes_are_handed_out_while_the_next_item_is_awaited() -> None:
    start = asyncio.get_running_loop().time()
    async with aclosing(fan_out(double, trickle(range(2), 100), concurrency=5)) as outcomes:
        assert (await anext(outcomes)).key == 0
        assert asyncio.get_running_loop().time() - start == pytest.approx(100, abs=0.01)


# --- Failures ------------------------------------------------------------------------------------


async def test_what_the_work_raises_is_in_the_outcome_and_stops_nothing() -> None:
    error = VPSBackupsError("no")

    async def work(number: int) -> int:
        if number == 2:
            raise error
        return number

    came = {o.key: o async for o in fan_out(work, range(5))}
    assert came[2].error is error
    assert not came[2].ok
    with pytest.raises(VPSBackupsError, match="no"):
        came[2].unwrap()
    assert sum(o.ok for o in came.values()) == 4


async def test_work_that_is_no_coroutine_is_an_outcome_too() -> None:
    came = [o async for o in fan_out(lambda number: number, [1])]  # type: ignore[arg-type]
    assert isinstance(came[0].error, TypeError)


async def test_work_that_cancels_itself_is_an_outcome() -> None:
    async def work(number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError
        if number == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        return number

    came = {o.key: o async for o in fan_out(work, range(4), concurrency=2)}
    assert sorted(came) == [0, 1, 2, 3]
    for number in (1, 2):
        assert isinstance(came[number].error, VPSBackupsError)
        assert f"the work on {number} was cancelled" in str(came[number].error)


def broken(error: BaseException) -> Iterator[int]:
    yield from (1, 2)
    raise error


async def broken_later(error: BaseException) -> AsyncIterator[int]:
    for item in (1, 2):
        yield item
    raise error


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", [broken, broken_later])
async def test_items_that_cannot_be_read_on_are_an_error_after_what_runs(source: Any) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(number)
        return number

    came: Outcomes = []
    with pytest.raises(LookupError, match="gone"):
        await drain(fan_out(work, source(LookupError("gone"))), came)
    assert [o.value for o in came] == [1, 2]


async def test_items_whose_reading_is_cancelled_do_not_cancel_the_reader() -> None:
    came: Outcomes = []
    with pytest.raises(VPSBackupsError, match="reading of the items was cancelled"):
        await drain(fan_out(double, broken_later(asyncio.CancelledError())), came)
    assert [o.value for o in came] == [2, 4]


@pytest.mark.parametrize("concurrency", [0, -1, True, "x", 1.5])
def test_a_bad_concurrency_is_a_value_error_at_the_call(concurrency: Any) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        fan_out(double, [1], concurrency=concurrency)


def test_what_is_not_callable_or_not_iterable_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="work"):
        fan_out("work", [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        fan_out(double, 5)  # type: ignore[arg-type]


# --- Stopping at a failure -----------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_after_the_first_failure_nothing_is_begun_and_what_runs_is_finished(
    source: Any,
) -> None:
    begun = []

    async def work(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(1 if number == 1 else 5)
        if number == 1:
            raise LookupError(number)
        return number

    outcomes = fan_out(work, source([*range(10), 9, 9]), concurrency=3, on_error="stop")
    came = [o async for o in outcomes]
    assert begun == [0, 1, 2]
    assert Counter(o.key for o in came) == Counter([*range(10), 9, 9])
    assert sorted(o.key for o in came if o.ok) == [0, 2]
    failure = next(o.error for o in came if o.key == 1)
    spared = [o.error for o in came if o.key > 2]
    assert all(isinstance(error, NotAttemptedError) for error in spared)
    assert all(error.__cause__ is failure for error in spared)
    assert len(set(map(id, spared))) == 9


async def test_work_that_fails_at_once_keeps_what_was_not_begun_from_beginning() -> None:
    begun = []

    async def work(number: int) -> None:
        begun.append(number)
        raise LookupError

    came = [o async for o in fan_out(work, range(100), concurrency=64, on_error="stop")]
    assert begun == [0]
    assert sorted(o.key for o in came) == list(range(100))


async def test_work_that_is_cancelled_from_within_is_a_failure_that_stops() -> None:
    async def work(_: int) -> None:
        raise asyncio.CancelledError

    came = [o async for o in fan_out(work, range(3), concurrency=1, on_error="stop")]
    assert [type(o.error) for o in came] == [VPSBackupsError, NotAttemptedError, NotAttemptedError]


@pytest.mark.parametrize("source", SOURCES)
async def test_a_stopped_run_over_endless_items_lets_other_tasks_run_and_can_be_left(
    source: Any,
) -> None:
    async def fail(_: int) -> None:
        raise LookupError

    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    spared = 0
    endless = source(itertools.count())
    async with aclosing(fan_out(fail, endless, on_error="stop")) as outcomes:
        async for outcome in outcomes:
            spared += isinstance(outcome.error, NotAttemptedError)
            if spared == 10_000:
                break
    task.cancel()
    assert turns >= 100


async def test_items_that_fail_after_the_stop_end_the_stream_with_their_error() -> None:
    async def fail(_: int) -> None:
        raise ValueError

    came: Outcomes = []
    with pytest.raises(LookupError, match="gone"):
        await drain(
            fan_out(fail, broken(LookupError("gone")), concurrency=1, on_error="stop"), came
        )
    assert [o.key for o in came] == [1, 2]


@pytest.mark.parametrize("on_error", ["ignore", None, 1])
def test_a_bad_on_error_is_a_value_error_at_the_call(on_error: Any) -> None:
    with pytest.raises(ValueError, match="on_error"):
        fan_out(double, [1], on_error=on_error)


T = TypeVar("T")


def eager(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    """A task that begins at once: asyncio's own factory of 3.13.0 takes no options of uvloop's."""
    return asyncio.Task(coroutine, loop=loop, **{**options, "eager_start": True})


# Tasks that begin eagerly came with Python 3.12.
@pytest.mark.parametrize("factory", [None, *([eager] if sys.version_info >= (3, 12) else [])])
async def test_every_way_for_tasks_to_begin_settles_all(factory: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        for source in SOURCES:
            came = [o async for o in fan_out(double, source(range(200)), concurrency=3)]
            assert sorted(o.key for o in came) == list(range(200))
    finally:
        loop.set_task_factory(None)


# --- Leaving early -------------------------------------------------------------------------------


class Watched:
    """Work that ends only when it is cancelled, and takes a moment to do so."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    async def __call__(self, number: int) -> int:
        self.begun += 1
        try:
            if number == 0:
                return number
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            self.ended += 1
        return number


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_leaving_the_loop_cancels_what_runs_and_waits_for_its_end(source: Any) -> None:
    work = Watched()
    begun = asyncio.get_running_loop().time()
    async with aclosing(fan_out(work, source(itertools.count()), concurrency=8)) as outcomes:
        async for outcome in outcomes:
            assert outcome.key == 0
            break
    assert work.begun == work.ended >= 8
    assert asyncio.get_running_loop().time() - begun < 5
    assert len(asyncio.all_tasks()) == 1
    await outcomes.aclose()
    assert [o async for o in outcomes] == []


@pytest.mark.virtual_time
async def test_leaving_while_the_next_item_is_awaited_ends_that_too() -> None:
    ended = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    async with aclosing(fan_out(double, items())) as outcomes:
        await anext(outcomes)
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ended
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.virtual_time
async def test_a_reader_that_is_cancelled_leaves_nothing_running() -> None:
    work = Watched()
    reader = asyncio.ensure_future(drain(fan_out(work, range(1, 100), concurrency=4), []))
    await asyncio.sleep(5)
    assert work.begun == 4
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert work.ended == 4
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.virtual_time
async def test_a_reader_cancelled_twice_still_ends_after_everything_else() -> None:
    work = Watched()
    reader = asyncio.ensure_future(drain(fan_out(work, trickle([1, 2, 3], 2)), []))
    await asyncio.sleep(5)
    assert work.begun == 2
    for _ in range(2):
        reader.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert len(asyncio.all_tasks()) == 1


async def test_a_stream_that_was_never_read_starts_nothing() -> None:
    work = Watched()
    outcomes = fan_out(work, range(10))
    await asyncio.sleep(0)
    await outcomes.aclose()
    assert work.begun == 0


async def test_a_failed_outcome_is_freed_as_soon_as_it_is_dropped() -> None:
    class FailureError(Exception):
        pass

    async def work(_: int) -> None:
        raise FailureError

    gc.disable()
    try:
        dropped = []
        async for outcome in fan_out(work, range(3)):
            assert outcome.error is not None
            dropped.append(weakref.ref(outcome.error))
        del outcome
        await asyncio.sleep(0)
        assert [ref() for ref in dropped] == [None] * 3
    finally:
        gc.enable()


# --- Two steps: to start, and to follow ----------------------------------------------------------


def two_steps(
    start: Any,
    follow: Any,
    items: Any,
    *,
    concurrency: int | None = 5,
    **options: Any,
) -> AsyncGenerator[Outcome[Any, Any]]:
    source = open_source(items)
    return FanOut(start, source, concurrency, Meter(None, ()), follow=follow, **options).outcomes()


class Steps:
    """Work in two steps of some seconds each, which counts how many are in each."""

    def __init__(self, start: float = 1.0, follow: float = 100.0) -> None:
        self.seconds = start, follow
        self.begun = self.ended = 0
        self.starting = self.following = 0
        self.most_starting = self.most_running = 0

    async def start(self, number: int) -> int:
        self.begun += 1
        self.starting += 1
        self.most_starting = max(self.most_starting, self.starting)
        self.most_running = max(self.most_running, self.starting + self.following)
        try:
            await asyncio.sleep(self.seconds[0])
        finally:
            self.starting -= 1
        return number * 2

    async def follow(self, value: int) -> int:
        self.following += 1
        try:
            await asyncio.sleep(self.seconds[1])
        finally:
            await asyncio.sleep(0)
            self.following -= 1
            self.ended += 1
        return value + 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_what_is_followed_holds_no_place(source: Any) -> None:
    steps = Steps()
    begun = asyncio.get_running_loop().time()
    came = [o async for o in two_steps(steps.start, steps.follow, source(range(50)))]
    assert asyncio.get_running_loop().time() - begun == pytest.approx(10 + 100, abs=1)
    assert {o.key: o.unwrap() for o in came} == {number: 2 * number + 1 for number in range(50)}
    assert (steps.most_starting, steps.most_running) == (5, 50)


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_max_running_bounds_both_steps_together(source: Any) -> None:
    steps = Steps()
    begun = asyncio.get_running_loop().time()
    came = [
        o async for o in two_steps(steps.start, steps.follow, source(range(36)), max_running=12)
    ]
    assert asyncio.get_running_loop().time() - begun == pytest.approx(3 * 101, abs=5)
    assert len(came) == 36
    assert (steps.most_starting, steps.most_running) == (5, 12)


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_items_are_not_read_further_ahead_than_places_become_free(source: Any) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(1_000_000):
            read += 1
            yield number

    steps = Steps()
    async with aclosing(two_steps(steps.start, steps.follow, source(items()))) as outcomes:
        await anext(outcomes)
        assert steps.begun == pytest.approx(500, abs=10)
        assert read <= steps.begun + 5


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_a_reader_that_takes_its_time_keeps_more_from_being_started(source: Any) -> None:
    steps = Steps()
    async with aclosing(two_steps(steps.start, steps.follow, source(range(10_000)))) as outcomes:
        await anext(outcomes)
        await asyncio.sleep(1)
        begun = steps.begun
        await asyncio.sleep(1000)
        assert begun == steps.begun
        assert steps.ended == begun
        # All of these have ended: nothing more is started until few enough of them are unread.
        for _ in range(begun - 6):
            await anext(outcomes)
            await asyncio.sleep(2)
            assert steps.begun == begun
        for _ in range(2):
            await anext(outcomes)
            await asyncio.sleep(2)
        assert begun < steps.begun <= begun + 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("step", ["start", "follow"])
async def test_a_failure_of_either_step_stops_the_run_and_what_is_followed_is_finished(
    step: str,
) -> None:
    async def start(number: int) -> int:
        await asyncio.sleep(1)
        if step == "start" and number == 3:
            raise LookupError
        return number

    async def follow(number: int) -> int:
        await asyncio.sleep(1 if number == 3 else 50)
        if number == 3:
            raise LookupError
        return number

    came = [o async for o in two_steps(start, follow, range(20), concurrency=2, on_error="stop")]
    kinds = Counter(type(o.error).__name__ for o in came)
    done = {"start": 3, "follow": 5}[step]
    assert kinds == {"NoneType": done, "LookupError": 1, "NotAttemptedError": 20 - done - 1}


@pytest.mark.virtual_time
async def test_an_error_that_halts_stops_the_run_with_any_on_error() -> None:
    async def start(number: int) -> int:
        raise KeyError if number == 4 else LookupError

    halts = two_steps(start, None, range(20), concurrency=1, halts=lambda e: type(e) is KeyError)
    kinds = Counter([type(o.error).__name__ async for o in halts])
    assert kinds == {"LookupError": 4, "KeyError": 1, "NotAttemptedError": 15}


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", SOURCES)
async def test_leaving_the_loop_cancels_both_steps_and_waits_for_their_end(source: Any) -> None:
    steps = Steps()
    outcomes = two_steps(steps.start, steps.follow, source(itertools.count()), max_running=30)
    async with aclosing(outcomes):
        await anext(outcomes)
        assert steps.following >= 20
    assert (steps.starting, steps.following) == (0, 0)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.virtual_time
async def test_following_that_cancels_itself_or_is_no_coroutine_is_an_outcome() -> None:
    async def follow(number: int) -> int:
        raise asyncio.CancelledError

    came = [o async for o in two_steps(double, follow, range(20), concurrency=2)]
    assert all("was cancelled" in str(o.error) for o in came)
    came = [o async for o in two_steps(double, lambda value: value, range(20), max_running=2)]
    assert [type(o.error) for o in came] == [TypeError] * 20


@pytest.mark.virtual_time
async def test_what_is_no_exception_in_following_ends_the_run_after_the_rest_was_cancelled() -> (
    None
):
    steps = Steps()

    async def follow(value: int) -> int:
        if value == 8:
            pytest.fail("out")
        return await steps.follow(value)

    with pytest.raises(pytest.fail.Exception, match="out"):
        await drain(two_steps(steps.start, follow, range(20)), [])
    assert steps.begun >= 5
    assert (steps.starting, steps.following) == (0, 0)


# --- With a client -------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_waiting_for_many_backups_gives_each_its_outcome_as_it_ends() -> None:
    async with (
        FakeVPS(
            servers=20, backup_seconds=lambda made: 10.0 * (21 - made["id"]), fails=[3]
        ) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        made = [await client.create(number) for number in range(1, 21)]
        came = [o async for o in fan_out(client.wait, made, concurrency=None)]
        assert Counter(o.key.id for o in came) == Counter(range(1, 21))
        assert [o.key.id for o in came if not o.ok] == [3]
        assert came[0].key.id > 15
        assert came[-1].key.id < 5


@pytest.mark.parametrize(
    "fatal",
    [
        BaseException("out"),
        pytest.fail.Exception("out"),
        BaseExceptionGroup("several", [BaseException("out")]),
    ],
    ids=["BaseException", "pytest.fail", "group"],
)
async def test_what_is_no_exception_ends_the_run_after_the_rest_was_cancelled(
    fatal: BaseException,
) -> None:
    cancelled: list[int] = []

    async def work(number: int) -> int:
        if number == 3:
            await asyncio.sleep(0)
            raise fatal
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cancelled.append(number)
            raise
        return number

    with pytest.raises(type(fatal)):
        async for _ in fan_out(work, range(10), concurrency=5):
            pass
    assert sorted(cancelled) == [0, 1, 2, 4]


@pytest.mark.parametrize("raised", [asyncio.CancelledError, pytest.fail.Exception])
async def test_whatever_on_progress_raises_never_keeps_a_run_from_its_end(
    raised: type[BaseException],
) -> None:
    def on_progress(progress: Progress) -> None:
        if progress.done:
            raise raised("of the caller's code")

    async def work(item: int) -> int:
        return item

    keys = []
    try:
        async for outcome in fan_out(work, range(3), on_progress=on_progress):
            keys.append(outcome.key)
    except raised:
        assert raised is pytest.fail.Exception
    else:
        assert sorted(keys) == [0, 1, 2]


@pytest.mark.virtual_time
async def test_work_that_is_cancelled_while_it_wants_its_place_back_takes_none() -> None:
    tasks: dict[int, asyncio.Task[Any] | None] = {}

    async def work(number: int) -> int:
        tasks[number] = asyncio.current_task()
        if number == 1:
            async with without_place():
                await asyncio.sleep(1)
        else:
            await asyncio.sleep(2)
        return number

    run = FanOut(work, open_source([1, 2, 3]), 1, Meter(None, ()), leaves_places=True)
    outcomes = run.outcomes()
    assert (await anext(outcomes)).key == 2
    assert tasks[1] is not None
    tasks[1].cancel()
    ended = {outcome.key: outcome.ok async for outcome in outcomes}
    assert ended == {1: False, 3: True}


async def test_without_a_bulk_job_a_block_without_a_place_is_any_block() -> None:
    async with without_place():
        pass
    with pytest.raises(ZeroDivisionError):
        async with without_place():
            raise ZeroDivisionError
