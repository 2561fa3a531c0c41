"""The pytest plugin of vpsbackups_async: fixtures for a fake VPS.org, its client and virtual time.

pytest imports this module in every run, so the library and its dependencies are imported only when
a fixture is used. For the same reason it is installed as a top-level module, outside the package.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vpsbackups_async import BackupsClient
    from vpsbackups_async.testing import FakeVPS, VirtualTime

FIXTURES = "fake_vps, backups_client and virtual_time"
MARKER = """\
fake_vps(virtual_time=True, **knobs): arguments of `FakeVPS` for the fixture fake_vps, such as \
servers=3, backup_seconds=600, quota=10; virtual_time=False runs the test in real time."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, for `--strict-markers` and `pytest --markers`."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
async def virtual_time(request: pytest.FixtureRequest) -> AsyncIterator[VirtualTime]:
    """Virtual time for the test: waiting ten minutes takes no real time; see `VirtualTime`.

    `fake_vps` and `backups_client` use it too. `@pytest.mark.fake_vps(virtual_time=False)` turns
    it off. The test fails if its event loop does not support virtual time.
    """
    from vpsbackups_async.testing import VirtualTime  # noqa: PLC0415  # pytest starts faster without it

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
    virtual_time: VirtualTime,  # noqa: ARG001  # first, as its clock follows the loop's
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[FakeVPS]:
    """A started `FakeVPS` on virtual time, with the knobs of `@pytest.mark.fake_vps(...)`.

    During the test VPS_API_TOKEN and VPS_API_URL point to it, so that a `BackupsClient()` in the
    tested code uses it and never the real API. The test fails if the marker has an unknown knob.

    For a plain `def test_...` it runs in a thread of its own and in real time.
    """
    async with _made(request) as fake:
        _point_to(fake, monkeypatch)
        yield fake


def _fake_in_thread(
    virtual_time: None,  # noqa: ARG001  # pytest passes what the fixture has asked for
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FakeVPS]:
    with _made(request).in_thread() as fake:
        _point_to(fake, monkeypatch)
        yield fake


def _made(request: pytest.FixtureRequest) -> FakeVPS:
    from vpsbackups_async.testing import FakeVPS  # noqa: PLC0415  # pytest starts faster without it

    knobs = _knobs(request)
    knobs.pop("virtual_time", None)
    known = inspect.signature(FakeVPS).parameters
    if unknown := sorted(knobs.keys() - known):
        pytest.fail(
            f"@pytest.mark.fake_vps has no knob {', '.join(unknown)};"
            f" the knobs are {', '.join(sorted([*known, 'virtual_time']))}",
            pytrace=False,
        )
    return FakeVPS(**knobs)


def _point_to(fake: FakeVPS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPS_API_TOKEN", fake.token)
    monkeypatch.setenv("VPS_API_URL", fake.url)


@pytest.fixture
async def backups_client(fake_vps: FakeVPS) -> AsyncIterator[BackupsClient]:
    """A `BackupsClient` for `fake_vps` with default options."""
    from vpsbackups_async import BackupsClient  # noqa: PLC0415  # pytest starts faster without it

    async with BackupsClient(fake_vps.token, base_url=fake_vps.url) as client:
        yield client


def _knobs(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The keywords of the test's markers; the closest marker overrides the others."""
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
    """Set up our async fixtures with the plugin that runs the test: pytest-asyncio or anyio."""
    if getattr(fixturedef.func, "__module__", None) == __name__:
        function = inspect.unwrap(fixturedef.func)
        # Not restored afterwards: pytest-asyncio reads it again when it calls the test.
        fixturedef.func = _adapted_to_runner(function, request)  # type: ignore[misc]  # replaced on purpose
    return (yield)


def _adapted_to_runner(
    function: Callable[..., Any], request: pytest.FixtureRequest
) -> Callable[..., Any]:
    test = getattr(request.node, "obj", None)
    test = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    if not inspect.iscoroutinefunction(test):
        return _for_plain_test(function, request)
    if "anyio_backend" in request.fixturenames:
        return _for_anyio(function, request)
    marker = request.node.get_closest_marker("asyncio")
    if marker is not None and request.config.pluginmanager.has_plugin("asyncio"):
        return _for_pytest_asyncio(function, request, marker)
    message = (
        f"{FIXTURES} need a runner of async tests: install pytest-asyncio and mark the test with"
        " @pytest.mark.asyncio, or install anyio and mark it with @pytest.mark.anyio"
    )
    return _failing(function, message)


def _for_plain_test(
    function: Callable[..., Any], request: pytest.FixtureRequest
) -> Callable[..., Any]:
    # A wrapper, so that the next test finds the original function in it.
    if function.__name__ == "fake_vps":
        return functools.update_wrapper(functools.partial(_fake_in_thread), function)
    # `fake_vps` asks for the fixture `virtual_time`, which a plain test does without.
    if function.__name__ == "virtual_time" and not _asks_for("virtual_time", request):
        return functools.update_wrapper(functools.partial(_nothing), function)
    message = (
        f"{function.__name__} is for tests on an event loop: write the test as `async def`;"
        " a plain test can use fake_vps, which then runs in a thread of its own"
    )
    return _failing(function, message)


def _nothing(**_: object) -> None:
    """In the place of a fixture that is not needed."""


def _asks_for(fixture: str, request: pytest.FixtureRequest) -> bool:
    used = [name for marker in request.node.iter_markers("usefixtures") for name in marker.args]
    test = getattr(request.node, "obj", None)  # a doctest has none
    return fixture in used or (callable(test) and fixture in inspect.signature(test).parameters)


def _failing(function: Callable[..., Any], message: str) -> Callable[..., Any]:
    # pytest reports a failure correctly only if the fixture raises it, and not if a hook does.
    @functools.wraps(function)
    def fail(**_: object) -> None:
        pytest.fail(message, pytrace=False)

    return fail


def _for_anyio(function: Callable[..., Any], request: pytest.FixtureRequest) -> Callable[..., Any]:
    backend = request.getfixturevalue("anyio_backend")
    kind = backend if isinstance(backend, str) else backend[0]
    if kind == "asyncio":
        return function
    message = (
        f'{FIXTURES} work on asyncio, not on {kind}: let a fixture anyio_backend return "asyncio"'
    )
    return _failing(function, message)


def _for_pytest_asyncio(
    function: Callable[..., Any], request: pytest.FixtureRequest, marker: pytest.Mark
) -> Callable[..., Any]:
    import pytest_asyncio  # noqa: PLC0415  # optional, but known to be in use here

    # Run on the test's loop, whatever loop the project configures for its fixtures.
    scope = (
        marker.kwargs.get("loop_scope")
        or marker.kwargs.get("scope")
        or request.config.getini("asyncio_default_test_loop_scope")
    )
    # Mark a new function instead of the original, which a test under anyio may use as well.
    marked = functools.update_wrapper(functools.partial(function), function)
    pytest_asyncio.fixture(marked, loop_scope=scope)
    return marked
