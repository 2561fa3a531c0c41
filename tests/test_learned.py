"""`LearnedBackoff`: what it learns, when it looks, and what that saves; other learners."""

import asyncio
import copy
import math
import pickle
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import (
    Attempt,
    Backoff,
    Backup,
    BackupRef,
    BackupsClient,
    BackupStatus,
    BackupType,
    ConstantBackoff,
    DurationHistory,
    ExponentialBackoff,
    LearnedBackoff,
    ServerRef,
    WaitTimeoutError,
)
from vpsbackups_async.backoff import delay_of
from vpsbackups_async.testing import FakeVPS

WHEN = datetime(2025, 1, 16, 3, tzinfo=UTC)
EXPONENTIAL = ExponentialBackoff(5.0, maximum=30.0)


def backup(server_id: int = 7, created_at: datetime = WHEN) -> Backup:
    return Backup(
        501,
        ServerRef(server_id, ""),
        BackupType.MANUAL,
        BackupStatus.IN_PROGRESS,
        None,
        created_at,
        None,
        "",
    )


def taught(*seconds: float, server_id: int = 7, **options: float) -> LearnedBackoff:
    strategy = LearnedBackoff(**options)
    for taken in seconds:
        strategy.learn(backup(server_id), taken, taken)
    return strategy


def looks(strategy: Backoff, duration: float, created_at: datetime = WHEN) -> list[float]:
    """When a single backup is looked at until it has ended."""
    times: list[float] = []
    delay = None
    while not times or times[-1] < duration:
        elapsed = times[-1] if times else 0.0
        attempt = Attempt(len(times) + 1, elapsed, delay, backup(created_at=created_at))
        delay = delay_of(strategy, attempt)
        times.append(elapsed + delay)
    return times


# --- Properties ----------------------------------------------------------------------------------

durations = st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1e9)), max_size=40)
strategies = st.builds(
    LearnedBackoff,
    st.floats(0.1, 1e308) | st.integers(1, 10**6),
    st.floats(0, 1e300),
)
attempts = st.builds(
    Attempt,
    st.integers(1, 10_000),
    st.floats(0, 1e9),
    st.none() | st.floats(0, 1e308),
    st.none()
    | st.builds(
        backup,
        st.integers(1, 12),
        st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # bounds are naive
    ),
)


@given(strategies, durations, attempts)
def test_every_delay_is_finite_and_not_negative(
    strategy: LearnedBackoff, history: list[tuple[int, float]], attempt: Attempt
) -> None:
    for server_id, seconds in history:
        strategy.learn(backup(server_id), seconds / 2, seconds)
    delay = delay_of(strategy, attempt)
    assert math.isfinite(delay)
    assert delay >= 0


@given(durations)
def test_it_survives_pickling_with_what_it_learned(history: list[tuple[int, float]]) -> None:
    strategy = LearnedBackoff()
    for server_id, seconds in history:
        strategy.history.add(server_id, seconds, 4049)
    for twin in (pickle.loads(pickle.dumps(strategy)), copy.deepcopy(strategy)):
        assert twin == strategy
        assert twin.history == strategy.history
        assert [twin.history.of_server(one) for one in range(10)] == [
            strategy.history.of_server(one) for one in range(10)
        ]


def test_it_prints_its_numbers_and_not_its_history() -> None:
    strategy = LearnedBackoff()
    for server_id in range(1, 1_000):
        strategy.history.add(server_id, 123.456, 4049)
    assert "step=30.0, chance=0.1" in repr(strategy)
    assert "123" not in repr(strategy)
    assert len(repr(strategy)) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"step": 0},
        {"step": 0.01},
        {"step": math.nan},
        {"step": "1"},
        {"chance": -1},
        {"chance": math.inf},
        {"fallback": 5},
    ],
)
def test_bad_numbers_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LearnedBackoff(**options)


@pytest.mark.parametrize("name", ["per_server", "servers", "overall"])
def test_a_history_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DurationHistory(**{name: 0})


# --- History -------------------------------------------------------------------------------------


def test_a_history_keeps_the_last_of_each_server_with_their_sizes() -> None:
    history = DurationHistory(per_server=2)
    for number in range(1, 5):
        history.add(7, number, 100 * number)
    assert history.of_server(7) == [(3, 300), (4, 400)]
    assert history.of_server(8) == []
    assert len(history) == 4


def test_a_history_is_bounded_and_forgets_the_server_not_heard_of_longest() -> None:
    history = DurationHistory(servers=3, overall=10)
    for server_id in (1, 2, 3, 1, 4):
        history.add(server_id, 100.0, None)
    assert [bool(history.of_server(one)) for one in (1, 2, 3, 4)] == [True, False, True, True]
    for number in range(1_000):
        history.add(number, number, None)
    assert len(history.expected(None)) == 10
    assert len(pickle.dumps(history)) < 1_000


def test_what_is_expected_of_unknown_servers_is_not_what_came_last() -> None:
    """A night's last backups to end are its longest."""
    history = DurationHistory(servers=1)
    for number in range(10_000):
        history.add(number, number, None)
    expected = history.expected(10**6)
    assert list(expected) == sorted(expected)
    assert 3_500 < expected[len(expected) // 2] < 6_500


def test_too_few_durations_of_other_servers_say_nothing() -> None:
    history = DurationHistory()
    for number in range(4):
        history.add(number, 100.0, None)
    assert not history.expected(99)
    history.add(5, 100.0, None)
    assert history.expected(99)


def test_a_server_of_which_enough_is_known_is_expected_to_go_on_as_it_did() -> None:
    history = DurationHistory()
    for seconds in (300, 100, 500, 200, 400):
        history.add(7, seconds, None)
    assert list(history.expected(7)) == [100, 200, 300, 400, 500]


def test_a_vague_duration_corrects_only_what_it_excludes() -> None:
    for running, completed, now in ((0, 400, 200), (250, 400, 250), (50, 150, 150), (90, 110, 100)):
        strategy = taught(200)
        strategy.learn(backup(), running, completed)
        assert strategy.history.of_server(7)[-1][0] == now
    strategy = LearnedBackoff()
    strategy.learn(backup(), 0, 400)
    assert strategy.history.of_server(7) == [(200, None)]


# --- When it looks -------------------------------------------------------------------------------


def test_until_enough_is_known_the_fallback_decides() -> None:
    strategy = LearnedBackoff(fallback=ConstantBackoff(17))
    assert strategy(Attempt(1, backup=backup())) == 17
    assert strategy(Attempt(1)) == 17


def test_the_first_look_comes_near_the_expected_end_and_the_next_close_in() -> None:
    times = looks(taught(600, step=10), 640)
    assert times[0] > 450
    assert len(times) < 15
    steps = [later - sooner for sooner, later in pairwise(times)]
    assert max(steps) <= 60


def test_a_backup_that_takes_longer_than_ever_is_looked_at_every_step() -> None:
    times = looks(taught(100), 1_000)
    assert times[-8:] == [times[-1] - 30 * back for back in range(7, -1, -1)]


def test_looks_of_many_servers_fall_on_the_same_moments() -> None:
    moments = set()
    for seconds in range(200, 800, 7):
        created_at = WHEN + timedelta(seconds=seconds % 29)
        for look in looks(taught(seconds), seconds * 1.1, created_at):
            moments.add(round((created_at.timestamp() + look) % 30, 3) % 30)
    assert moments == {0}


def test_a_look_is_never_right_after_another() -> None:
    for seconds in range(100, 400):
        times = looks(taught(seconds), seconds * 1.5)
        assert min(b - a for a, b in pairwise([0.0, *times])) >= 9 - 1e-6


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_a_known_server_takes_fewer_looks_and_less_lag_than_the_exponential(noise: float) -> None:
    chance = random.Random(1)
    totals = {"learned": [0, 0.0], "exponential": [0, 0.0]}
    for _ in range(300):
        habit = chance.lognormvariate(math.log(240), 0.5)
        learned = taught(*(habit * chance.lognormvariate(0, noise) for _ in range(3)), step=20)
        tonight = habit * chance.lognormvariate(0, noise)
        created_at = WHEN + timedelta(seconds=chance.uniform(0, 60))
        for name, strategy in (("learned", learned), ("exponential", EXPONENTIAL)):
            times = looks(strategy, tonight, created_at)
            totals[name][0] += len(times)
            totals[name][1] += times[-1] - tonight
    assert totals["learned"][0] < 0.5 * totals["exponential"][0]
    assert totals["learned"][1] < totals["exponential"][1]


# --- Learning from waits -------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_wait_teaches_how_long_the_backup_took_by_half_an_interval_at_most() -> None:
    strategy = LearnedBackoff()
    async with (
        FakeVPS(servers=3, backup_seconds=200) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        done = await client.wait(await client.create(2), backoff=strategy)
        (learned,) = strategy.history.of_server(2)
        assert learned == (pytest.approx(200, abs=15), done.size_mb)
        before = fake.count("GET")
        await client.wait(await client.create(2), backoff=strategy)
        assert fake.count("GET") - before <= 4
    assert [seconds for seconds, _ in strategy.history.of_server(2)] == [
        pytest.approx(200, abs=15)
    ] * 2


@pytest.mark.virtual_time
async def test_a_wait_that_began_at_an_unknown_time_teaches_nothing() -> None:
    """As after a restart, with the two integers only."""
    strategy = LearnedBackoff()
    async with (
        FakeVPS(servers=3, backup_seconds=200) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        ref = (await client.create(2)).ref
        await asyncio.sleep(150)
        await client.wait(BackupRef(ref.id, ref.server_id), backoff=strategy)
    assert len(strategy.history) == 0


@pytest.mark.virtual_time
async def test_a_wait_that_times_out_teaches_nothing() -> None:
    strategy = LearnedBackoff()
    async with (
        FakeVPS(servers=3, backup_seconds=200) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        with pytest.raises(WaitTimeoutError):
            await client.wait(await client.create(2), backoff=strategy, timeout=50)
    assert len(strategy.history) == 0


class Recorder:
    """A backoff with a `learn` method that keeps what a wait tells it."""

    def __init__(self) -> None:
        self.lessons: list[tuple[Backup, float, float]] = []

    def __call__(self, attempt: Attempt) -> float:
        return 30.0

    def learn(self, backup: Backup, running: float, completed: float) -> None:
        self.lessons.append((backup, running, completed))


@pytest.mark.virtual_time
@pytest.mark.fake_vps(backup_seconds=100)
async def test_a_wait_teaches_any_strategy_with_a_learn_method(client: BackupsClient) -> None:
    strategy = Recorder()
    done = await client.wait(await client.create(2), backoff=strategy)
    assert strategy.lessons == [(done, pytest.approx(90, abs=1), pytest.approx(120, abs=1))]


@pytest.mark.virtual_time
@pytest.mark.fake_vps(backup_seconds=10)
async def test_a_strategy_that_saw_only_the_end_learns_that_it_ran_when_the_wait_began(
    client: BackupsClient,
) -> None:
    strategy = Recorder()
    done = await client.wait(await client.create(2), backoff=strategy)
    assert strategy.lessons == [(done, 0, pytest.approx(30, abs=1))]


@pytest.mark.virtual_time
@pytest.mark.fake_vps(backup_seconds=100)
@pytest.mark.parametrize("known", ["ref", "unknown status"])
async def test_a_wait_that_began_with_an_unknown_state_teaches_no_strategy(
    client: BackupsClient, known: str
) -> None:
    strategy = Recorder()
    backup = await client.create(2)
    queued = evolve(backup, status=BackupStatus("queued"))
    done = await client.wait(backup.ref if known == "ref" else queued, backoff=strategy)
    assert done.is_completed
    assert strategy.lessons == []
