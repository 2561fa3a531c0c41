"""The pytest plugin of vpsbackups_async: a fake VPS.org, a client of it, and virtual time.

pytest loads this module at every start, so it imports neither the library nor anything that the
library needs, until a fixture is used. That is why it lies outside of the package once installed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vpsbackups_async import BackupsClient
    from vpsbackups_async.testing import FakeVPS, VirtualTime

OURS = "fake_vps, backups_client and virtual_time"
MARKER = """\
fake_vps(virtual_time=True, **knobs): the arguments of `FakeVPS` for the fixture fake_vps, such as \
servers=3, backup_seconds=600, quota=10; virtual_time=False for a test at the real pace."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for `--strict-markers` and `pytest --markers`."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
async def virtual_time(request: pytest.FixtureRequest) -> AsyncIterator[VirtualTime]:
    """Virtual time for the test: it waits ten minutes in no time, see `VirtualTime`.

    On for every test that uses `fake_vps` or `backups_client`, unless
    `@pytest.mark.fake_vps(virtual_time=False)` says otherwise.
    """
    from vpsbackups_async.testing import VirtualTime  # noqa: PLC0415

    clock = VirtualTime()
    if not _knobs(request).get("virtual_time", True):
        yield clock
        return
    try:
        clock.__enter__()
    except RuntimeError as error:
        pytest.fail(f"{error}; @pytest.mark.fake_vps(virtual_time=False) does without", False)
    try:
        yield clock
    finally:
        clock.__exit__(None, None, None)


@pytest.fixture
async def fake_vps(
    virtual_time: VirtualTime,  # noqa: ARG001  # its clock follows the loop's from the start
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[FakeVPS]:
    """A started `FakeVPS`, on virtual time, with the knobs of `@pytest.mark.fake_vps(...)`.

    VPS_API_TOKEN and VPS_API_URL lead to it, so that a `BackupsClient()` that the tested code
    makes for itself finds it, and never the real API.
    """
    from vpsbackups_async.testing import FakeVPS  # noqa: PLC0415

    knobs = _knobs(request)
    knobs.pop("virtual_time", None)
    known = inspect.signature(FakeVPS).parameters
    if unknown := sorted(knobs.keys() - known):
        pytest.fail(
            f"@pytest.mark.fake_vps has no knob {', '.join(unknown)};"
            f" the knobs are {', '.join(sorted([*known, 'virtual_time']))}",
            pytrace=False,
        )
    async with FakeVPS(**knobs) as fake:
        monkeypatch.setenv("VPS_API_TOKEN", fake.token)
        monkeypatch.setenv("VPS_API_URL", fake.url)
        yield fake


@pytest.fixture
async def backups_client(fake_vps: FakeVPS) -> AsyncIterator[BackupsClient]:
    """A `BackupsClient` of `fake_vps`, with everything else as by default."""
    from vpsbackups_async import BackupsClient  # noqa: PLC0415

    async with BackupsClient(fake_vps.token, base_url=fake_vps.url) as client:
        yield client


def _knobs(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the markers of the test say, the closest last."""
    knobs: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("fake_vps"))):
        if marker.args:
            pytest.fail("@pytest.mark.fake_vps takes keywords only", pytrace=False)
        knobs.update(marker.kwargs)
    return knobs


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Hand a fixture of ours to whatever runs the test: pytest-asyncio, or anyio's plugin."""
    if getattr(fixturedef.func, "__module__", None) == __name__:
        function = inspect.unwrap(fixturedef.func)
        # For the whole test: pytest-asyncio looks again when it comes to the call.
        fixturedef.func = _as_the_runner_takes_it(function, request)  # type: ignore[misc]
    return (yield)


def _as_the_runner_takes_it(
    function: Callable[..., Any], request: pytest.FixtureRequest
) -> Callable[..., Any]:
    test = getattr(request.node, "obj", None)
    test = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    if not inspect.iscoroutinefunction(test):
        words = f"{OURS} are for tests on an event loop: write the test as `async def`"
        return _refusing(function, words)
    if "anyio_backend" in request.fixturenames:
        return _for_anyio(function, request)
    marker = request.node.get_closest_marker("asyncio")
    if marker is not None and request.config.pluginmanager.has_plugin("asyncio"):
        return _for_pytest_asyncio(function, request, marker)
    words = (
        f"{OURS} need a runner of async tests: install pytest-asyncio and mark the test with"
        " @pytest.mark.asyncio, or install anyio and mark it with @pytest.mark.anyio"
    )
    return _refusing(function, words)


def _refusing(function: Callable[..., Any], words: str) -> Callable[..., Any]:
    # pytest keeps no failure but that of the fixture itself: one of a hook confuses it.
    @functools.wraps(function)
    def refuse(**_: object) -> None:
        pytest.fail(words, pytrace=False)

    return refuse


def _for_anyio(function: Callable[..., Any], request: pytest.FixtureRequest) -> Callable[..., Any]:
    backend = request.getfixturevalue("anyio_backend")
    kind = backend if isinstance(backend, str) else backend[0]
    if kind == "asyncio":
        return function
    words = f'{OURS} work on asyncio, not on {kind}: let a fixture anyio_backend return "asyncio"'
    return _refusing(function, words)


def _for_pytest_asyncio(
    function: Callable[..., Any], request: pytest.FixtureRequest, marker: pytest.Mark
) -> Callable[..., Any]:
    import pytest_asyncio  # noqa: PLC0415  # it is there, and in use

    # On the loop of the test, wherever the project has its other fixtures run.
    scope = (
        marker.kwargs.get("loop_scope")
        or marker.kwargs.get("scope")
        or request.config.getini("asyncio_default_test_loop_scope")
    )
    # The mark is on a function of its own, so that a test of anyio's is free of it.
    marked = functools.update_wrapper(functools.partial(function), function)
    pytest_asyncio.fixture(marked, loop_scope=scope)
    return marked
