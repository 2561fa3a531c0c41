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
    RetryPolicy,
    ServerRef,
    WaitTimeoutError,
)
from vpsbackups_async.backoff import delay_of
from vpsbackups_async.testing import FakeVPS, ServerFault

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
        strategy.learn(backup(server_id + 3), 0, seconds)
        strategy.history.add_late(server_id + 6, seconds, None)
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


@given(durations, st.floats(0.1, 1e6), st.floats(0, 1e6), st.integers(1, 4))
def test_it_survives_json_with_what_it_learned(
    history: list[tuple[int, float]], step: float, chance: float, limit: int
) -> None:
    strategy = LearnedBackoff(
        step, chance, history=DurationHistory(per_server=limit, servers=limit, overall=limit)
    )
    for number, (server_id, seconds) in enumerate(history):
        add = strategy.history.add if number % 3 else strategy.history.add_late
        add(server_id, seconds, None if number % 2 else 4049)
    stored = strategy.to_json()
    for twin in (LearnedBackoff.from_json(stored), LearnedBackoff.from_json(stored.decode())):
        assert twin == strategy
        assert twin.history == strategy.history
        assert twin.to_json() == stored
    assert DurationHistory.from_json(strategy.history.to_json()) == strategy.history


def test_its_json_goes_on_learning_and_takes_a_fallback() -> None:
    strategy = LearnedBackoff(fallback=ConstantBackoff(17))
    strategy.history.add(7, 300.0, 4049)
    twin = LearnedBackoff.from_json(strategy.to_json(), fallback=ConstantBackoff(17))
    assert twin == strategy
    assert twin(Attempt(1, backup=backup(8))) == 17
    twin.learn(backup(), 290, 310)
    assert twin.history.of_server(7) == [(300.0, 4049), (300.0, None)]
    assert LearnedBackoff.from_json(strategy.to_json()).fallback == EXPONENTIAL


def test_json_that_holds_more_than_its_own_limits_is_cut_to_them() -> None:
    history = DurationHistory()
    for server_id in (1, 2, 3):
        for seconds in (100, 200, 300):
            history.add(server_id, seconds, None)
    text = history.to_json().replace(b'"servers":100000', b'"servers":2')
    text = text.replace(b'"per_server":5', b'"per_server":2').replace(b":256", b":4")
    read = DurationHistory.from_json(text.replace(b'"added":9', b'"added":0'))
    assert [bool(read.of_server(one)) for one in (1, 2, 3)] == [False, True, True]
    assert read.of_server(3) == [(200, None), (300, None)]
    assert list(read.expected(9)) == []
    assert len(read) == 4
    twin = DurationHistory.from_json(history.to_json().replace(b"[100", b"[900"))
    assert list(twin.expected(9)) == sorted(twin.expected(9))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{", "", "LearnedBackoff"),
        ('"step":', '"pace":', "missing required field `step`"),
        ('"step":30.0', '"step":0', "step must be at least 0.1 seconds"),
        ('"chance":0.1', '"chance":-1', "chance"),
        ('"per_server":5', '"per_server":0', "per_server must be a positive int"),
        ('"added":1', '"added":-1', r"\$.added"),
        ('"7":', '"seven":', r"\$.by_server"),
        ('"7":', '"0":', r"\$.by_server"),
        ("300.5,4049", "-300.5,4049", r"\$.by_server"),
        ("300.5,4049", "1e999,4049", r"out of range"),
        ("300.5,4049", '"300",4049', r"\$.by_server"),
        ("[300.5]", "[-300.5]", r"\$.sample\[0\]"),
        ("[300.5]", "[NaN]", "malformed"),
        ("[300.5]", "[\udcff]", "malformed"),
    ],
)
def test_json_that_to_json_did_not_write_is_a_value_error_that_says_why(
    old: str, new: str, words: str
) -> None:
    strategy = LearnedBackoff()
    strategy.history.add(7, 300.5, 4049)
    text = strategy.to_json().decode()
    assert old in text
    with pytest.raises(ValueError, match=words):
        LearnedBackoff.from_json(text.replace(old, new))


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


# --- What teaches it, and what does not ----------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "running", "completed", "taught_now"),
    [
        ((), 90, 110, 100),
        ((), 100, 130, 115),
        ((), 0, 25, 12.5),
        ((), 200, 300, 250),
        ((200,), 90, 110, 100),
        ((200,), 100, 220, 200),
        ((200,), 250, 400, 250),
        ((200,), 100, 180, 180),
    ],
)
def test_a_duration_is_halfway_between_two_polls_and_a_vague_one_what_it_does_not_exclude(
    known: tuple[float, ...], running: float, completed: float, taught_now: float
) -> None:
    strategy = taught(*known)
    strategy.learn(backup(), running, completed)
    assert [seconds for seconds, _ in strategy.history.of_server(7)] == [*known, taught_now]
    assert len(strategy.history) == len(known) + 1


@pytest.mark.parametrize(
    ("known", "running", "completed"),
    [
        ((), 100, 1_700),
        ((), 100, 231),
        ((), 0, 40),
        ((), 0, 1_700),
        ((240,), 100, 1_700),
        ((240,), 0, 400),
        ((240,), 0, 1_700),
        ((240, 250, 230, 260, 240), 300, 1_700),
    ],
)
def test_an_interval_in_which_a_poll_was_due_teaches_nothing(
    known: tuple[float, ...], running: float, completed: float
) -> None:
    """The polls between failed, or the process slept."""
    strategy = taught(*known)
    before = copy.deepcopy(strategy.history)
    strategy.learn(backup(), running, completed)
    assert strategy.history == before


def test_a_first_poll_that_finds_the_backup_completed_is_taken_to_come_just_after_its_end() -> None:
    strategy = taught(240)
    (first,) = looks(strategy, 10)
    strategy.learn(backup(), 0, first)
    assert [seconds for seconds, _ in strategy.history.of_server(7)] == [240, 0.95 * first]
    strategy = taught(240)
    strategy.learn(backup(), 0, first * 1.5)  # the hub rested
    assert [seconds for seconds, _ in strategy.history.of_server(7)] == [240, 240]


def test_a_second_poll_too_late_makes_the_next_come_at_half_the_time_and_a_third_forgets() -> None:
    strategy = taught(1_000, 600, 1_000, 600, 900)
    expected = [strategy.history.expected(7)]
    firsts = []
    for _ in range(3):
        first = looks(strategy, 10)[0]
        strategy.learn(backup(), 0, first)
        firsts.append(first)
        expected.append(strategy.history.expected(7))
    assert firsts == [600, 570, 300]
    assert expected[0] == [600, 600, 900, 1_000, 1_000]
    assert expected[1] == [570, 600, 600, 900, 1_000]
    assert expected[2] == [285, 570, 570, 600, 600, 900, 1_000]
    assert expected[3] == [150, 300]
    strategy.learn(backup(), 160, 180)  # it was seen running again
    assert [seconds for seconds, _ in strategy.history.of_server(7)] == [170]
    assert min(strategy.history.expected(7)) == 0.8 * 170
    strategy.learn(backup(), 0, looks(strategy, 10)[0])
    assert len(strategy.history.of_server(7)) == 2


def test_what_came_too_late_for_one_server_says_nothing_of_another() -> None:
    strategy = taught(1_000)
    for _ in range(3):
        strategy.learn(backup(), 0, looks(strategy, 10)[0])
    assert strategy.history.expected(8) == ()
    assert strategy.history.expected(None) == ()


def test_a_late_poll_of_a_slow_fallback_teaches_too() -> None:
    strategy = LearnedBackoff(fallback=ConstantBackoff(600))
    strategy.learn(backup(), 0, 601)
    assert looks(strategy, 10)[0] < 500
    strategy.learn(backup(), 0, 480)
    assert looks(strategy, 10)[0] <= 270
    strategy = LearnedBackoff(fallback=ConstantBackoff(5))
    strategy.learn(backup(), 0, 36)  # up to a step may pass until a poll that others share
    assert [seconds for seconds, _ in strategy.history.of_server(7)] == [0.95 * 36]


def test_durations_that_a_third_late_poll_rules_out_are_forgotten_and_no_others() -> None:
    history = DurationHistory()
    for seconds in (100, 200, 300):
        history.add(7, seconds, None)
    for _ in range(3):
        history.add_late(7, 200, None)
    assert [seconds for seconds, _ in history.of_server(7)] == [100, 190]


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


def test_a_backup_that_took_longer_than_usual_is_not_left_until_the_slowest_night() -> None:
    strategy = taught(240, 240, 240, 240, 1_800)
    for seconds in range(241, 1_700, 50):
        assert looks(strategy, seconds)[-1] - seconds <= 0.2 * seconds + 30


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


async def lags(
    fake: FakeVPS, client: BackupsClient, strategy: Backoff, *nights: float
) -> list[float]:
    """How long after its end (s) a backup was seen completed, for nights that took so long (s)."""
    loop = asyncio.get_running_loop()
    late = []
    for seconds in nights:
        fake.backup_seconds = seconds
        made = await client.create(2)
        begun = loop.time()
        await client.wait(made, backoff=strategy, timeout=None)
        late.append(loop.time() - begun - seconds)
        await client.delete(made.id)
    return late


@pytest.mark.virtual_time
@pytest.mark.parametrize(("slow", "usual"), [(1_800, 240), (1_800, 60), (3_600, 600), (600, 240)])
async def test_after_a_slow_night_it_is_at_most_a_minute_late_within_seven_nights(
    fake: FakeVPS, client: BackupsClient, slow: float, usual: float
) -> None:
    """The lag stayed at 930 s for ever, for it took its own late look for the duration."""
    late = await lags(fake, client, LearnedBackoff(), slow, *[usual] * 12)
    assert max(late[7:]) <= 60
    assert sorted(late[1:6], reverse=True) == late[1:6]


@pytest.mark.virtual_time
@pytest.mark.parametrize("before", [1, 2, 5])
async def test_a_slow_night_among_others_does_not_delay_the_nights_after_it(
    fake: FakeVPS, client: BackupsClient, before: int
) -> None:
    late = await lags(fake, client, LearnedBackoff(), *[240] * before, 1_800, *[250] * 5)
    assert max(late) <= 80


@pytest.mark.virtual_time
@pytest.mark.parametrize("known", [0, 1, 5])
@pytest.mark.parametrize("begins", [1, 130])
async def test_an_outage_during_a_wait_teaches_nothing(
    fake: FakeVPS, known: int, begins: float
) -> None:
    strategy = LearnedBackoff()
    retry = RetryPolicy(attempts=1)
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as client:
        await lags(fake, client, strategy, *[240] * known)
        before = copy.deepcopy(strategy.history)
        loop = asyncio.get_running_loop()
        loop.call_later(begins, fake.inject, ServerFault(status=503, method="GET"))
        loop.call_later(1_700, fake.clear_faults)
        (late,) = await lags(fake, client, strategy, 240)
        assert late > 1_400
        assert strategy.history == before


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
@pytest.mark.fake_vps(backup_seconds=10)
async def test_a_wait_that_began_with_a_running_one_teaches_in_whatever_case_its_status_is(
    client: BackupsClient,
) -> None:
    strategy = Recorder()
    running = evolve(await client.create(2), status=BackupStatus("IN_PROGRESS"))
    done = await client.wait(running, backoff=strategy)
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
