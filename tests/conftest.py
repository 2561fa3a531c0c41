"""What every test gets: no task left behind, virtual time where marked, and uvloop on request."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from vpsbackups_async import BackupsClient, RetryPolicy
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.testing import FakeVPS

collect_ignore = ["example_project"]  # a project of its own, see test_plugin.py


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
    if config.getoption("--uvloop"):
        config.pluginmanager.register(_Uvloop())


def pytest_sessionstart(session: pytest.Session) -> None:
    on_uvloop = session.config.getoption("--uvloop")
    session.add_marker(pytest.mark.fake_vps(servers=3, backups=5, virtual_time=not on_uvloop))


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
