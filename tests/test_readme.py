"""The README's code runs as it stands there; its web applications in test_web_*.py."""

import ast
import asyncio
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_readme import APPS, DURABLE, README, SCRIPTS, SNIPPETS, SYNC, TESTS

from benchmarks.report import ROWS, markdown
from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS


async def run(block: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block in which `await` stands outside of a function, as in `python -m asyncio`."""
    code = compile(block, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, names)
    if inspect.isawaitable(running):
        await running
    return names


pytestmark = pytest.mark.fake_vps(
    servers={number: f"web-server-{number}" for number in (12345, 12346, 12347)},
    backups=2,
    backup_seconds=60,
)


@pytest.fixture
def fake(fake: FakeVPS) -> FakeVPS:
    fake.add_backup(12345, description="Before the update")
    return fake


def test_the_readme_has_code_of_each_kind() -> None:
    assert (len(SCRIPTS), len(APPS), len(TESTS), len(SYNC)) == (1, 4, 2, 1)
    assert len(DURABLE) == 1
    assert len(SNIPPETS) >= 9


async def test_the_first_script_lists_manual_backups(fake: FakeVPS) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SCRIPTS[0], stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.split() == [b"7", b"web-server-12345", b"completed", b"4049"]


async def test_the_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(APPS[0], "utf-8")
    for number, block in enumerate(TESTS):
        (tmp_path / f"test_readme_{number}.py").write_text(block, "utf-8")
    options = ("-W", "error", "-o", "asyncio_default_fixture_loop_scope=function")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)), cwd=tmp_path, stdout=-1
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"2 passed" in out


@pytest.mark.fake_vps(backup_seconds=0)
def test_the_recipe_for_sync_code_creates_and_waits(
    fake_vps: FakeVPS, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(SYNC[0], str(README), "exec"), {"__name__": "recipe"})
    out = capsys.readouterr().out
    assert re.fullmatch(r"\d+ MB\n", out)
    assert fake_vps.count("POST", status=201) == 1


@pytest.mark.virtual_time
async def test_the_snippets_run_in_their_order(fake: FakeVPS) -> None:
    async with BackupsClient() as client:
        names: dict[str, Any] = {"client": client, "BackupsClient": BackupsClient}
        for snippet in SNIPPETS:
            alone = "async with BackupsClient(" in snippet
            await run(snippet, {"BackupsClient": BackupsClient} if alone else names)
    assert fake.count("POST", "restore") == 1
    assert fake.count("DELETE", status=204) == 1


async def test_the_durable_run_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dbos", reason="it comes with the extra durable")
    monkeypatch.chdir(tmp_path)
    await run(DURABLE[0], {})
    assert capsys.readouterr().out == "2\n"


def test_the_table_of_figures_is_the_one_that_was_measured() -> None:
    """As `python -m benchmarks.report benchmarks/figures.json` prints it."""
    figures = json.loads((README.parent / "benchmarks" / "figures.json").read_text("utf-8"))
    told = [row for row in figures["rows"] if row["what"].startswith(tuple(ROWS))]
    assert len(told) == len(ROWS)
    shown = README.read_text("utf-8").partition("<!-- figures -->")[2]
    assert shown.partition("<!-- /figures -->")[0].strip() == markdown(figures)
