"""How commands end: help, usage, set-up, exit codes, tracebacks without the token, completion."""

import asyncio
import compileall
import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
from helpers_cli import COMMAND, call, environment, run
from helpers_readme import README

import vpsbackups_async
from vpsbackups_async import VPSBackupsError
from vpsbackups_async.cli import commands, main
from vpsbackups_async.cli.commands.completion import script
from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.options import duration_of, timeout_seconds
from vpsbackups_async.testing import FakeVPS, Reply

ROOT = Path(vpsbackups_async.__file__).parent
# A module of its own once installed, and in the sources a file below `cli`.
_INSTALLED = importlib.util.find_spec("vpsbackups_console")
CONSOLE = Path((_INSTALLED and _INSTALLED.origin) or ROOT / "cli/console/vpsbackups_console.py")
CANARY = "vps_canary0123456789abcdef"
COMMANDS = (
    "list", "servers", "show", "create", "wait", "delete", "restore", "prune", "rotate", "audit",
    "report", "doctor", "units", "run", "demo", "fake", "completion",
)  # fmt: skip
RUN_COMMANDS = (
    "submit", "work", "status", "results", "retry", "cancel", "forget", "list", "schedule",
)  # fmt: skip


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backups=2) as server:
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        yield server


# --- Help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS, *(f"run {name}" for name in RUN_COMMANDS)])
def test_help_fits_a_screen_and_has_examples(command: str, capfd: pytest.CaptureFixture) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert len(lines) <= (24 if command else 32)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"Usage: vpsbackups {command}".rstrip())
    assert "Examples:" in lines
    assert said.err == ""


def test_each_option_that_takes_a_time_says_its_form_in_the_same_words(
    capfd: pytest.CaptureFixture,
) -> None:
    options = []
    for command in (*COMMANDS, *(f"run {name}" for name in RUN_COMMANDS)):
        main([*command.split(), "--help"])
        said = capfd.readouterr().out
        assert "SECONDS" not in said
        options += [line for line in said.splitlines() if " TIME " in line]
    assert len(options) >= 12
    assert all("(30m, 24h, 2d)" in line for line in options)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172_800), (" 1w", 604_800)],
)
def test_a_time_has_a_unit_and_where_it_always_could_it_may_be_seconds_alone(
    given: str, seconds: float
) -> None:
    assert duration_of("--rpo", given).total_seconds() == seconds
    assert timeout_seconds(given) == seconds
    assert timeout_seconds(str(seconds)) == seconds
    with pytest.raises(UsageError, match=r"--rpo '.*' is no time: give 30m, 24h or 2d"):
        duration_of("--rpo", str(seconds))


@pytest.mark.parametrize("given", ["soon", "-5s", "5x", "", "1e3"])
@pytest.mark.parametrize("words", ["wait 1 --timeout", "fake --backup-seconds", "audit --rpo"])
def test_what_is_no_time_is_a_usage_error_that_says_what_is(
    words: str, given: str, capfd: pytest.CaptureFixture
) -> None:
    *command, option = words.split()
    assert main([*command, f"{option}={given}"]) == 2
    assert f"{option} {given!r} is no time: give 30m, 24h or 2d" in capfd.readouterr().err


def test_a_time_that_is_too_long_is_told_how_long_it_may_be() -> None:
    assert duration_of("--rpo", "36500d").days == 36_500
    with pytest.raises(UsageError, match=r"--rpo '36501d' is too long: give 36500d at most"):
        duration_of("--rpo", "36501d")


def test_help_names_each_command_and_the_exit_codes(capfd: pytest.CaptureFixture) -> None:
    assert main(["-h"]) == 0
    said = capfd.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[4 : 4 + len(COMMANDS)]] == list(COMMANDS)
    for words in ("0 all fine", "1 some failed", "2 usage", "3 auth", "4 timed out", "130 inter"):
        assert words in said


def test_each_module_of_the_commands_is_a_command() -> None:
    assert {module.name for module in pkgutil.iter_modules(commands.__path__)} == set(COMMANDS)
    below = pkgutil.iter_modules([f"{commands.__path__[0]}/run"])
    assert {module.name for module in below} == set(RUN_COMMANDS)


async def test_without_sources_the_commands_run_and_help_lacks_what_they_say(
    fake: FakeVPS, tmp_path: Path
) -> None:
    package = tmp_path / "vpsbackups_async"
    shutil.copytree(ROOT, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(package, quiet=1, legacy=True)
    for file in package.rglob("*.py"):
        file.unlink()
    for arguments, words in (("list", "server-0001"), ("--help", "create"), ("--help", "130 int")):
        done = await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, arguments],
            cwd=tmp_path,
            env=environment(fake),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout


def test_no_command_is_the_help_as_an_error(capfd: pytest.CaptureFixture) -> None:
    assert main([]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("Usage: vpsbackups COMMAND\n")


def test_the_version_is_the_package_s(capfd: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out[:1].isdigit()


async def test_help_loads_no_command_and_no_server() -> None:
    code = (
        "import sys; from vpsbackups_async.cli import main; assert main(['--help']) == 0; "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    ours = {name for name in done.stderr.split() if name.startswith("vpsbackups_async.")}
    assert "vpsbackups_async.cli.app" in ours
    assert not any(name.startswith("vpsbackups_async.cli.commands.") for name in ours)
    assert ours.isdisjoint({f"vpsbackups_async.cli.{name}" for name in ("session", "progress")})
    assert not any(name.startswith("vpsbackups_async.testing") for name in ours)
    assert "rich.markdown" not in done.stderr.split()


# --- Usage and set-up ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["lost"], 'Unknown command "lost"', "vpsbackups --help"),
        (["--lost"], "--lost", "vpsbackups --help"),
        (["list", "--lost"], "Unknown option: --lost", "vpsbackups list --help"),
        (["list", "--type", "weekly"], '"manual", "automatic"', "vpsbackups list --help"),
        (
            ["list", "--limit", "few"],
            "a whole number, not 'few'",
            "vpsbackups list --help",
        ),
        (["list", "--limit", "-1"], "--limit is zero or more", "vpsbackups list --help"),
        (["list", "extra"], "unexpected: 'extra'", "vpsbackups list --help"),
        (["show"], "error: ID is missing", "vpsbackups show --help"),
        (["report"], "error: --html FILE is missing", "vpsbackups report --help"),
        (["list", "--limit"], "error: --limit takes N", "vpsbackups list --help"),
        (["list", "--json=5"], "--json takes no value, and has '5'", "vpsbackups list --help"),
        (
            ["prune", "--max-fraction", "x"],
            "takes a number such as 20 or 0.5, not 'x'",
            "vpsbackups prune --help",
        ),
        (["demo", "extra"], "extra", "vpsbackups demo --help"),
        (["fake", "--port", "70000"], "at most 65535", "vpsbackups fake --help"),
        (["fake", "--servers", "-1"], "zero or more", "vpsbackups fake --help"),
        (["completion", "tcsh"], "tcsh", "vpsbackups completion --help"),
    ],
)
async def test_bad_usage_is_exit_code_2_in_two_lines(
    arguments: list[str], words: str, hint: str, fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    assert await call(*arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("error: ")
    assert words in first
    assert second == f"{hint} tells more"
    assert fake.count() == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "set VPS_API_TOKEN, or give --token-file FILE"),
        ({"VPS_API_TOKEN": ""}, "there is no token"),
        ({"VPS_API_TOKEN": "x", "VPS_API_URL": "http://panel.example"}, "unencrypted: use https"),
        ({"VPS_API_TOKEN": "x", "VPS_API_URL": "nonsense"}, "the URL (VPS_API_URL or --url)"),
    ],
)
async def test_a_wrong_set_up_is_exit_code_2(given: dict[str, str], words: str) -> None:
    ended = await run("list", **given)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) <= 2
    assert words in ended.err
    assert "allow_insecure" not in ended.err
    assert "token=" not in ended.err


async def test_the_token_may_come_from_a_file_and_the_url_from_an_option(
    fake: FakeVPS,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{fake.token}\n")
    monkeypatch.setenv("VPS_API_TOKEN", "vps_another")
    monkeypatch.setenv("VPS_API_URL", "http://127.0.0.1:1")
    given = ("--url", f"{fake.url}/api/v1", "--token-file")
    assert await call("list", *given, str(file)) == 0
    assert len(capfd.readouterr().out.splitlines()) == 4
    assert await call("list", *given, str(tmp_path / "none")) == 2
    assert "No such file" in capfd.readouterr().err
    file.write_bytes(b"\xff\xfe")
    assert await call("list", *given, str(file)) == 2
    assert "it is no text" in capfd.readouterr().err


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
async def test_without_the_extra_one_line_says_how_to_get_it(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['list']; "
        "from runpy import run_module; run_module('vpsbackups_async', run_name='__main__')"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vpsbackups needs its extra: pip install 'vpsbackups-async[cli]'\n"


def test_only_a_missing_extra_is_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "vpsbackups_async.cli.app")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cyclopts", None)
        assert main(["--help"]) == 2
    assert "pip install" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "vpsbackups_async.cli.app", None)
    with pytest.raises(ModuleNotFoundError):
        main(["--help"])


@pytest.mark.parametrize(
    "module",
    [
        "vpsbackups_async.models", "aiohttp", "cyclopts", "rich.console",
        "vpsbackups_async.cli.commands.list", "vpsbackups_async.cli.session",
    ],
)  # fmt: skip
async def test_ctrl_c_during_an_import_is_exit_code_130_without_a_word(module: str) -> None:
    code = f"""
import os, runpy, signal, sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
main = runpy.run_path({str(CONSOLE)!r})["main"]
sys.meta_path.insert(0, Interrupts())
sys.argv[1:] = ["list"]
sys.exit(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_command_is_a_module_that_is_there_before_the_package() -> None:
    scripts = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))["project"][
        "scripts"
    ]
    assert scripts == {"vpsbackups": f"{CONSOLE.stem}:main"}


# --- The token -----------------------------------------------------------------------------------


async def test_a_wrong_token_is_exit_code_3_and_is_not_shown(fake: FakeVPS) -> None:
    for debug in ((), ("--debug",)):
        ended = await run("list", *debug, fake=fake, VPS_API_TOKEN=CANARY)
        assert (ended.code, ended.out) == (3, "")
        error, hint = ended.err.splitlines()[-2:]
        assert error.startswith("error: 401 Invalid token.")
        assert hint.startswith("Check the token (VPS_API_TOKEN or --token-file)")
        assert ("Traceback (most recent call last)" in ended.err) == bool(debug)
        assert CANARY not in ended.err


async def test_no_local_of_a_traceback_holds_the_token(
    fake: FakeVPS,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """As a reporter of crashes sees it: with the locals of each frame."""
    seen: list[str] = []

    def formatted() -> str:
        error = sys.exception() if sys.version_info >= (3, 11) else None
        assert isinstance(error, VPSBackupsError)
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        seen.append("".join(shown.format()))
        return seen[-1]

    monkeypatch.setattr("vpsbackups_async.cli.app.traceback.format_exc", formatted)
    fake.inject(Reply(500, b"", times=None))
    (tmp_path / "token").write_text(CANARY)
    monkeypatch.setenv("VPS_API_TOKEN", CANARY)
    assert await call("show", "1", "--debug", "--url", "http://[") == 2
    fake.clear_faults()
    assert await call("show", "1", "--debug", "--token-file", str(tmp_path / "token")) == 3
    assert len(seen) == 2
    assert all("Session" in text or "session" in text for text in seen)
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err + "".join(seen)


async def test_debug_shows_retries(fake: FakeVPS, capfd: pytest.CaptureFixture) -> None:
    fake.inject(Reply(503, b"", times=1))
    assert await call("list", "--debug") == 0
    assert "retrying in" in capfd.readouterr().err
    fake.inject(Reply(503, b"", times=1))
    assert await call("list") == 0
    assert capfd.readouterr().err == ""


# --- Completion ----------------------------------------------------------------------------------


def shell(*command: str, **more: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=environment(None, **more),
    )
    return done.stdout


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not on this machine")


@needs("bash")
def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    file = tmp_path / "vpsbackups.bash"
    file.write_text(script("bash"))
    code = (
        f"source {file}\n"
        'ask() { COMP_WORDS=(vpsbackups "$@"); COMP_CWORD=$#; COMPREPLY=();'
        ' COMP_LINE="vpsbackups $*"; COMP_POINT=${#COMP_LINE};'
        " $(complete -p vpsbackups | sed 's/.*-F \\([^ ]*\\) .*/\\1/') vpsbackups \"${@: -1}\";"
        ' echo "${COMPREPLY[@]}"; }\n'
        "ask cre; ask list --nd; ask list --type m; ask completion f; ask list --status comp;"
        " ask list --sort si; ask servers --status su"
    )
    found = [line.split() for line in shell("bash", "--norc", "-c", code).splitlines()]
    assert found == [
        ["create"], ["--ndjson"], ["manual"], ["fish"], ["completed"], ["size"], ["suspended"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_no_option_is_completed_that_does_nothing(name: Literal["bash", "zsh", "fish"]) -> None:
    assert not re.search(r"\b(?:empty|no)-[a-z]+", script(name))


@needs("fish")
def test_fish_completes_commands_options_and_choices(tmp_path: Path) -> None:
    file = tmp_path / "vpsbackups.fish"
    file.write_text(script("fish"))
    asked = ("cre", "list --nd", "list --type m", "completion f")
    code = f"source {file}; " + "; ".join(f"complete -C 'vpsbackups {words}'" for words in asked)
    home = str(tmp_path)
    lines = shell("fish", "--no-config", "-c", code, HOME=home).splitlines()
    assert [line.split()[0] for line in lines] == ["create", "--ndjson", "manual", "fish"]


@needs("zsh")
@pytest.mark.parametrize("how", ["sourced", "from a file"])
def test_zsh_completes_commands_and_options(how: str, tmp_path: Path) -> None:
    (tmp_path / "_vpsbackups").write_text(script("zsh"))
    source = f"source {tmp_path}/_vpsbackups; " if how == "sourced" else ""
    begin = f"""
    zmodload zsh/zpty
    zpty it zsh -f -i
    set_up='PS1=; fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; {source}'
    zpty -w it "$set_up print rea''dy"
    """
    ask = """
    zpty -r it out '*ready*'
    zpty -w -n it $'vpsbackups crea\t'
    zpty -r it out '*te*'
    zpty -w -n it $'--conc\t'
    zpty -r it out '*concurrency*'
    print -r -- $out
    zpty -d it
    """
    assert "--concurrency" in shell("zsh", "-f", "-c", begin + ask, TERM="xterm")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_command_writes_the_script(
    name: Literal["bash", "zsh", "fish"], capfd: pytest.CaptureFixture
) -> None:
    assert main(["completion", name]) == 0
    assert capfd.readouterr().out == script(name)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell is needed to close a stream")
@pytest.mark.parametrize("command", ["create 1", "list", "delete 1 -y"])
async def test_with_a_closed_output_nothing_is_sent(command: str, fake: FakeVPS) -> None:
    shell = f"exec {sys.executable} -W error -m vpsbackups_async {command} >&-"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", shell, env=environment(fake), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (2, b"error: standard output is closed\n")
    assert fake.count() == 0
