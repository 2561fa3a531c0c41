"""Fixtures and hooks for all tests: time limits, leftover tasks, virtual time, ids, uvloop."""

import asyncio
import faulthandler
import inspect
import logging
import math
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from pathlib import Path

import hypothesis
import pytest
from helpers_ids import name_of
from helpers_postgres import Postgres, find_programs, running_postgres
from helpers_secrets import Ear, holds
from helpers_spans import Spans, recorded

from vpsbackups_async import BackupsClient, RetryPolicy
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.testing import FakeVPS

STUCK_AFTER = 60
"""Seconds beyond the time limit of a test after which the whole run is ended. pytest-timeout ends a
test by an exception in the main thread, which does not help if a callback or hypothesis catches it,
or a thread hangs."""

# The time of an example depends on the load of the machine.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "longer", hypothesis.settings.get_profile("tests"), max_examples=1000
)
hypothesis.settings.load_profile("tests")

collect_ignore = ["example_project"]  # a separate project, run by test_plugin.py

_STDERR = pytest.StashKey[int]()
_STATE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


class _Uvloop:
    """A plugin that runs the tests on uvloop, which does not support virtual time."""

    @staticmethod
    def pytest_asyncio_loop_factories(
        config: pytest.Config, item: pytest.Item
    ) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        import uvloop  # noqa: PLC0415  # imported only if requested

        def new_loop() -> asyncio.AbstractEventLoop:
            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            # In debug mode it would log each slow step of a busy machine, among what tests look at.
            loop.slow_callback_duration = math.inf
            return loop

        return {"uvloop": new_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run on uvloop")


def pytest_configure(config: pytest.Config) -> None:
    # Without this, a plugin that gets the current loop before the first test would create one that
    # is never closed.
    asyncio.set_event_loop(None)
    # A script that starts pytest with `&` makes it ignore SIGINT. Processes that tests start would
    # inherit that, and a test that interrupts one would never end. A Python handler is not
    # inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_STDERR] = os.dup(2)  # pytest captures descriptor 2 during a test
    # The runs of whoever runs the tests stay as they are.
    config.stash[_STATE] = state = tempfile.TemporaryDirectory()
    os.environ["XDG_STATE_HOME"] = state.name
    if config.getoption("--uvloop"):
        config.pluginmanager.register(_Uvloop())


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])
    config.stash[_STATE].cleanup()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    own = item.get_closest_marker("timeout")
    limit = own.args[0] if own else float(item.config.getini("timeout"))
    stderr = item.config.stash[_STDERR]
    faulthandler.dump_traceback_later(limit + STUCK_AFTER, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


# Each phase needs its own timer, because pytest cancels faulthandler's when a phase has failed.
pytest_runtest_setup = pytest_runtest_teardown = pytest_runtest_call


def pytest_sessionstart(session: pytest.Session) -> None:
    on_uvloop = session.config.getoption("--uvloop")
    session.add_marker(pytest.mark.fake_vps(servers=3, backups=5, virtual_time=not on_uvloop))


def pytest_make_parametrize_id(val: object) -> str | None:
    return name_of(val)


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.insert(0, "no_task_left")
            if item.get_closest_marker("virtual_time"):
                item.fixturenames.insert(1, "virtual_time")


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail the test if it leaves a task running."""
    before = asyncio.all_tasks()
    yield
    for _ in range(20):  # cancelled tasks take a few iterations of the loop to end
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail(f"tasks left behind: {left}")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> object:
    """What runs the command line in this process."""
    from helpers_cli import Here  # noqa: PLC0415  # it needs an extra

    return Here(monkeypatch, capfd)


@pytest.fixture
def fake(fake_vps: FakeVPS) -> FakeVPS:
    """A short name for the plugin's fixture `fake_vps`."""
    return fake_vps


@pytest.fixture
async def client(fake: FakeVPS) -> AsyncIterator[BackupsClient]:
    """A client for `fake` that makes up to three attempts, without pauses."""
    retry = RetryPolicy(attempts=3, backoff=ConstantBackoff(0))
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as made:
        yield made


@pytest.fixture
def ear() -> Iterator[Ear]:
    """Every log record of the test, none of which may hold a canary."""
    ear = Ear()
    root = logging.getLogger()
    before = root.level
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    yield ear
    root.removeHandler(ear)
    root.setLevel(before)
    assert not any(holds(text) for text in ear.texts)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The spans of the test, of calls and of aiohttp's own instrumentation."""
    with recorded(monkeypatch) as spans:
        yield spans


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster of the tests' own."""
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.durable)])
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database of durable runs, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
