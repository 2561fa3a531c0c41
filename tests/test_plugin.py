"""The pytest plugin in projects of its users, each run by a pytest of its own."""

import shutil
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parent / "example_project"
RUNNERS = ["strict", "auto", "anyio"]
STRICT = """
[pytest]
addopts = --strict-markers
asyncio_mode = strict
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
IMPORTS = """
import asyncio, os, sys, time
import pytest
"""
ON_ASYNCIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project whose tests are marked for pytest-asyncio."""
    monkeypatch.delenv("VPS_API_TOKEN", raising=False)
    monkeypatch.delenv("VPS_API_URL", raising=False)
    pytester.makeini(STRICT)
    monkeypatch.delenv("CI", raising=False)  # with it pytest says each failure twice
    return pytester


def run(project: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    project.makepyfile(test_it=IMPORTS + textwrap.dedent(source))
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", *options)


def for_runner(runner: str, project: pytest.Pytester) -> list[str]:
    """The options that have all async tests run by this runner."""
    if runner != "anyio":
        return [f"--asyncio-mode={runner}"]
    project.makeconftest(ON_ASYNCIO)
    return ["--anyio-mode=auto"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_users_project_has_async_tests_in_virtual_time_and_plain_ones_over_http(
    runner: str, project: pytest.Pytester
) -> None:
    shutil.copytree(EXAMPLE, project.path, dirs_exist_ok=True)
    (project.path / "tox.ini").unlink()
    tests = project.path / "test_deploying.py"
    mark = {"strict": "mark.asyncio", "auto": "mark.fake_vps", "anyio": "mark.anyio"}[runner]
    tests.write_text(tests.read_text("utf-8").replace("mark.asyncio", mark), "utf-8")
    done = project.runpytest_subprocess("-W", "error", *for_runner(runner, project))
    # The tests of the project hold how many seconds went by on their loop.
    done.assert_outcomes(passed=6)


def test_nothing_of_the_library_is_imported_before_a_fixture_is_used(
    project: pytest.Pytester,
) -> None:
    done = run(
        project,
        """
        def loaded():
            ours = {"vpsbackups_async", "aiohttp", "attrs", "cattrs", "yarl"}
            return ours.intersection(sys.modules)

        def test_not_at_the_start():
            assert "pytest_vpsbackups" in sys.modules
            assert not loaded()

        @pytest.mark.asyncio
        async def test_by_a_fixture(backups_client):
            assert {"vpsbackups_async", "aiohttp"} <= loaded()
        """,
    )
    done.assert_outcomes(passed=2)


def test_a_project_that_has_no_use_for_it_needs_no_runner_for_async_tests(
    project: pytest.Pytester,
) -> None:
    project.makeini("")
    done = run(project, "def test_something(): pass", "-p", "no:asyncio", "-p", "no:anyio")
    done.assert_outcomes(passed=1)


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_marker_sets_the_knobs_and_the_closest_one_wins(
    runner: str, project: pytest.Pytester
) -> None:
    done = run(
        project,
        """
        @pytest.mark.asyncio
        @pytest.mark.anyio
        @pytest.mark.fake_vps(servers=2, backups=4)
        class TestClass:
            @pytest.mark.fake_vps(servers=3)
            async def test_method(self, fake_vps, backups_client):
                assert await backups_client.list().count() == 12
                assert fake_vps.count() == 1

            @pytest.mark.parametrize(
                "total", [8, pytest.param(10, marks=pytest.mark.fake_vps(backups=5))]
            )
            async def test_parameter(self, backups_client, total):
                assert await backups_client.list().count() == total
        """.replace("mark.anyio" if runner != "anyio" else "mark.asyncio", "mark.fake_vps"),
        *for_runner(runner, project),
    )
    done.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        (
            "fake_vps(serverz=3, bakups=2)",
            "has no knob bakups, serverz; the knobs are account_calls",
        ),
        ("fake_vps(3)", "takes keywords only"),
    ],
)
def test_a_wrong_knob_is_an_error_that_names_it_and_those_there_are(
    marker: str, words: str, project: pytest.Pytester
) -> None:
    done = run(
        project,
        f"""
        @pytest.mark.asyncio
        @pytest.mark.{marker}
        async def test_it(fake_vps): ...
        """,
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(f"*{words}*")


def test_pytest_tells_of_the_marker_and_of_the_fixtures(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("--markers").stdout.fnmatch_lines("@pytest.mark.fake_vps(*")
    project.runpytest_subprocess("--fixtures").stdout.fnmatch_lines_random([
        "fake_vps -- *", "backups_client -- *", "virtual_time -- *",
    ])  # fmt: skip


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_client_of_the_tested_code_finds_the_fake_by_the_environment(
    runner: str, project: pytest.Pytester
) -> None:
    done = run(
        project,
        f"""
        from vpsbackups_async import BackupsClient

        @pytest.mark.{"anyio" if runner == "anyio" else "asyncio"}
        async def test_inside(fake_vps):
            async with BackupsClient() as client:
                await client.create(1)
            assert fake_vps.count("POST", status=201) == 1

        def test_afterwards():
            assert not [name for name in os.environ if name.startswith("VPS_API")]
        """,
        *for_runner(runner, project),
    )
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize("runner", ["strict", "anyio"])
def test_fixtures_of_the_project_build_on_those_of_the_plugin(
    runner: str, project: pytest.Pytester
) -> None:
    kind = "pytest" if runner == "anyio" else "pytest_asyncio"
    done = run(
        project,
        f"""
        import pytest_asyncio

        @{kind}.fixture
        async def fake_vps(fake_vps):
            fake_vps.add_backup(1)
            return fake_vps

        @{kind}.fixture
        async def first(backups_client):
            return await backups_client.list().first()

        @pytest.mark.{"anyio" if runner == "anyio" else "asyncio"}
        async def test_it(first):
            assert first.id == 1
        """,
        *for_runner(runner, project),
    )
    done.assert_outcomes(passed=1)


@pytest.mark.parametrize("default", ["function", "session"])
def test_the_fake_runs_on_the_loop_of_its_test_whatever_its_scope(
    default: str, project: pytest.Pytester
) -> None:
    done = run(
        project,
        """
        async def waits(client):
            assert await client.list().count() == 0
            await client.wait(await client.create(1))

        @pytest.mark.asyncio
        async def test_default(backups_client):
            await waits(backups_client)

        class TestClass:
            @pytest.mark.parametrize("scope", [
                pytest.param(scope, marks=pytest.mark.asyncio(loop_scope=scope))
                for scope in ("function", "class", "module", "session") * 2
            ])
            async def test_marked(self, scope, backups_client, virtual_time):
                await waits(backups_client)
                assert 5 <= virtual_time.elapsed < 15
        """,
        *("-o", f"asyncio_default_fixture_loop_scope={default}"),
        *("-o", f"asyncio_default_test_loop_scope={default}"),
    )
    done.assert_outcomes(passed=9)


def test_both_runners_share_a_project(project: pytest.Pytester) -> None:
    project.makeconftest(ON_ASYNCIO)
    done = run(
        project,
        """
        @pytest.mark.anyio
        async def test_by_anyio(backups_client):
            await backups_client.wait(await backups_client.create(1))

        @pytest.mark.asyncio
        async def test_by_pytest_asyncio(backups_client):
            await backups_client.wait(await backups_client.create(1))

        @pytest.mark.anyio
        async def test_by_anyio_again(backups_client):
            await backups_client.wait(await backups_client.create(1))
        """,
    )
    done.assert_outcomes(passed=3)


ONE_OF_EACH = """
@pytest.mark.parametrize("extra", [1])
{test} test_fake(fake_vps, extra): ...
{test} test_client(backups_client): ...
{test} test_time(virtual_time): ...
"""


@pytest.mark.parametrize(
    ("test", "options", "words"),
    [
        ("async def", [], "need a runner of async tests: install pytest-asyncio and mark"),
        ("async def", ["-p", "no:asyncio", "-p", "no:anyio"], "need a runner of async tests"),
        ("@pytest.mark.anyio\nasync def", [], "work on asyncio, not on trio"),
    ],
)
def test_a_test_that_cannot_use_them_is_told_what_to_do(
    test: str, options: list[str], words: str, project: pytest.Pytester
) -> None:
    if options:
        project.makeini("")
    project.makeconftest(ON_ASYNCIO.replace("asyncio", "trio"))
    done = run(project, ONE_OF_EACH.format(test=test), *options)
    done.assert_outcomes(errors=3)
    assert done.stdout.str().count(words) == 3


@pytest.mark.parametrize("mode", ["strict", "auto"])
@pytest.mark.parametrize(
    "asking", ["def test(virtual_time)", "def test(fake_vps, virtual_time)", "def test(used)",
    "@pytest.mark.usefixtures('virtual_time')\ndef test(fake_vps)", "def test(backups_client)"]
)  # fmt: skip
def test_a_plain_test_is_told_which_fixture_needs_an_event_loop(
    asking: str, mode: str, project: pytest.Pytester
) -> None:
    done = run(
        project,
        f"""
@pytest.fixture
def used(backups_client): ...

{asking}: ...
        """,
        f"--asyncio-mode={mode}",
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines("* is for tests on an event loop: write the test as `async def`; *")


@pytest.mark.parametrize("runner", [*RUNNERS, "none"])
def test_a_plain_test_has_the_fake_in_a_thread_of_its_own(
    runner: str, project: pytest.Pytester
) -> None:
    options = for_runner(runner, project)
    if runner == "none":
        project.makeini("")
        options = ["-p", "no:asyncio", "-p", "no:anyio"]
    done = run(
        project,
        """
        from vpsbackups_async import BackupsClient

        async def made(server_id):
            async with BackupsClient() as client:
                return await client.create(server_id)

        @pytest.mark.fake_vps(servers=[7], virtual_time=True)
        def test_it(fake_vps, request):
            assert asyncio.run(made(7)).id == 1
            fake_vps.finish(1)
            assert [backup["status"] for backup in fake_vps.backups] == ["completed"]
            assert fake_vps.count("POST", status=201) == 1

        def test_afterwards():
            assert not [name for name in os.environ if name.startswith("VPS_API")]
        """,
        *options,
    )
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize("runner", RUNNERS)
def test_plain_and_async_tests_take_turns(runner: str, project: pytest.Pytester) -> None:
    mark = "anyio" if runner == "anyio" else "asyncio"
    done = run(
        project,
        f"""
        def test_1(fake_vps):
            assert fake_vps.backups == []

        @pytest.mark.{mark}
        async def test_2(backups_client, virtual_time):
            await backups_client.wait(await backups_client.create(1))
            await asyncio.sleep(600)
            assert virtual_time.elapsed > 600

        def test_3(fake_vps):
            assert fake_vps.backups == []

        @pytest.mark.{mark}
        async def test_4(virtual_time):
            await asyncio.sleep(600)
        """,
        *for_runner(runner, project),
        "--timeout=30",
    )
    done.assert_outcomes(passed=4)


def test_a_fixture_of_the_project_builds_on_the_fake_of_a_plain_test(
    project: pytest.Pytester,
) -> None:
    done = run(
        project,
        """
        @pytest.fixture
        def fake_vps(fake_vps):
            fake_vps.add_backup(1)
            return fake_vps

        class TestClass:
            def test_it(self, fake_vps):
                assert len(fake_vps.backups) == 1

            @pytest.mark.asyncio
            async def test_async(self, fake_vps, backups_client):
                assert await backups_client.list().count() == 1
        """,
    )
    done.assert_outcomes(passed=2)


def test_real_time_is_there_for_tests_that_ask_for_it(project: pytest.Pytester) -> None:
    done = run(
        project,
        """
        @pytest.mark.asyncio
        @pytest.mark.fake_vps(virtual_time=False)
        async def test_it(fake_vps, virtual_time):
            began = time.monotonic()
            await asyncio.sleep(0.05)
            assert time.monotonic() - began > 0.04
            with pytest.raises(RuntimeError, match="not on"):
                virtual_time.elapsed
        """,
    )
    done.assert_outcomes(passed=1)


def test_uvloop_is_refused_for_virtual_time_and_fine_without(project: pytest.Pytester) -> None:
    pytest.importorskip("uvloop", reason="uvloop comes with the dev group")
    project.makeconftest("""
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"use_uvloop": True}
    """)
    done = run(
        project,
        """
        @pytest.mark.anyio
        async def test_refused(fake_vps): ...

        @pytest.mark.anyio
        @pytest.mark.fake_vps(virtual_time=False)
        async def test_fine(backups_client):
            assert await backups_client.list().count() == 0
        """,
    )
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines("*not uvloop.Loop; @pytest.mark.fake_vps(virtual_time=False) does*")


def test_a_failing_test_shows_no_token(project: pytest.Pytester) -> None:
    done = run(
        project,
        """
        @pytest.mark.asyncio
        async def test_it(fake_vps, backups_client):
            with open("token", "w") as file:
                file.write(fake_vps.token)
            await backups_client.list().count()
            assert [fake_vps, fake_vps.requests, backups_client] == []
        """,
        *("--showlocals", "--setup-show", "-vvv", "-rA", "--full-trace"),
    )
    done.assert_outcomes(failed=1)
    token = (project.path / "token").read_text()
    assert len(token) > 20
    assert token not in done.stdout.str() + done.stderr.str()
    done.stdout.fnmatch_lines("*<FakeVPS http://127.0.0.1:*")
