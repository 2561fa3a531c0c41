"""What every test gets: no task left behind, a limit of time, virtual time where marked, uvloop."""

import asyncio
import faulthandler
import inspect
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterable

import hypothesis
import pytest
from helpers_ids import name_of

from vpsbackups_async import BackupsClient, RetryPolicy
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.testing import FakeVPS

STUCK_AFTER = 120
"""Seconds. pytest-timeout ends a test by an exception in the main thread. Where a callback or
hypothesis catches that, or a thread still has to end, the whole run is ended after so long."""

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

collect_ignore = ["example_project"]  # a project of its own, see test_plugin.py

_STDERR = pytest.StashKey[int]()


class _Uvloop:
    """Runs the tests on uvloop, which has no virtual time."""

    @staticmethod
    def pytest_asyncio_loop_factories(
        config: pytest.Config, item: pytest.Item
    ) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        import uvloop  # noqa: PLC0415  # only where it was asked for

        return {"uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run on uvloop")


def pytest_configure(config: pytest.Config) -> None:
    # Else a plugin that asks for the current loop before the first test makes one, never closed.
    asyncio.set_event_loop(None)
    # A script that starts pytest with `&` has it ignore SIGINT. The processes that tests start
    # would inherit that, and a test that interrupts one would wait for ever. A handler of Python's
    # is not inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_STDERR] = os.dup(2)  # while a test runs, 2 is captured
    if config.getoption("--uvloop"):
        config.pluginmanager.register(_Uvloop())


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    faulthandler.dump_traceback_later(STUCK_AFTER, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


# Each part for itself: when one has failed, pytest cancels what faulthandler would do.
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
    before = asyncio.all_tasks()
    yield
    for _ in range(20):  # what was cancelled needs a few rounds of the loop to end
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail(f"tasks left behind: {left}")


@pytest.fixture
def fake(fake_vps: FakeVPS) -> FakeVPS:
    """The plugin's, by its short name."""
    return fake_vps


@pytest.fixture
async def client(fake: FakeVPS) -> AsyncIterator[BackupsClient]:
    """A client of `fake` that retries without pauses."""
    retry = RetryPolicy(attempts=3, backoff=ConstantBackoff(0))
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as made:
        yield made
