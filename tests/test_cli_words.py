"""What the command line says of failures: no words of Python, and what to do in the shell."""

import ast
import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here, start
from helpers_transport import certified

import vpsbackups_async
from vpsbackups_async import errors
from vpsbackups_async.cli.ends import explain, hint_of
from vpsbackups_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    FleetError,
    RateLimitedError,
    RequestTimeoutError,
    VPSBackupsError,
    WrongEventLoopError,
)
from vpsbackups_async.testing import FakeVPS, Latency, Reply

PYTHON = re.compile(
    r"Timeouts|ssl:|Tokens|\bssl\b|_context|allow_insecure|\btoken=|base_url|\w+Error\b|\bint\b|"
    r"\bbool\b|\bfloat\b|\bNone\b|Errno|[a-z]_[a-z]+ must|client\.|deadline=|_ssl\.c|\('|"
    r"retry_after|page_size=|[a-z]=(?:True|False|\\s)"
)


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backups=1, clock=time.time) as server:
        yield server


async def doctor(run: Here, fake: FakeVPS, url: str) -> str:
    """What doctor says of this URL, for it makes one attempt only."""
    ended = await run("doctor", fake=fake, VPS_API_URL=url)
    assert (ended.code, ended.err) == (1, "")
    assert not PYTHON.search(ended.out), ended.out
    return ended.out


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://vps.example", "the URL (VPS_API_URL or --url) begins with http:// and would send"),
        ("https://user:word@vps.example", "must not hold a user or password"),
        ("nonsense", "must be an http(s) URL with a host"),
        ("https://vps.example/?a=b", "must have no query and no fragment"),
    ],
)
async def test_a_wrong_url_is_told_in_the_words_of_the_shell(
    url: str, words: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run("list", fake=fake, VPS_API_URL=url)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert not PYTHON.search(ended.err)


@pytest.mark.parametrize(
    "arguments",
    [
        "list --limit few", "list extra", "show", "list --json=5", "list --limit", "lost",
        "list --type weekly", "create -d", "list --csv --csv", "prune --max-fraction x", "report",
        "prune -s 1 --keep-last 1 --max-fraction 5", "prune -s 1 --keep-last 1 --max-deletions -1",
        "prune -s 1 --keep-last -1", "prune -s 1 --keep-last 1 --tz nowhere",
        "report --html /none/x",
        "create 1 --concurrency 0", "list --status bogus", "list --sort size", "restore 1",
    ],
)  # fmt: skip
async def test_wrong_arguments_are_told_in_the_words_of_the_shell(
    arguments: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run(*arguments.split(), fake=fake)
    assert (ended.code, fake.count()) == (2, 0)
    assert not PYTHON.search(ended.err), ended.err


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("there is no token", hint="Pass token=..."),
        DeadlineExceededError("the deadline of 120 s passed"),
        RequestTimeoutError("no answer within 30 s"),
        RateLimitedError(429, "Slow down.", retry_after=3),
    ],
)
def test_a_hint_about_python_is_not_shown(error: Exception) -> None:
    assert PYTHON.search(str(error))
    assert not PYTHON.search(f"{explain(error)} {hint_of(error)}")


def kinds_of_errors() -> list[type[VPSBackupsError]]:
    """All but those that no command shows: `list` shows the failures, and there is one loop."""
    named = [getattr(errors, name) for name in errors.__all__]
    kinds = [one for one in named if isinstance(one, type) and issubclass(one, VPSBackupsError)]
    return [one for one in kinds if one not in {FleetError, WrongEventLoopError}]


@pytest.mark.parametrize("kind", kinds_of_errors(), ids=lambda kind: kind.__name__)
def test_no_kind_of_error_has_a_hint_about_python(kind: type[VPSBackupsError]) -> None:
    error = kind.__new__(kind)
    error.__dict__.update(server_id=7, failure="connection", from_api=True)
    assert not PYTHON.search(hint_of(error))


CODE = re.compile(r"\b[a-z]\w*=(?:True|False|None|\.\.\.|['\"\s])|[a-z]\w*\.\w+\(|\(\.\.\.\)|`\w+`")
TRUSTING = "ssl_context=ssl.create_default_context(cafile=...)"
WAITING = "wait=True (or if_running='wait' of create)"
SHOWN_BY_THE_LIBRARY_ALONE = {
    "hints of a ConfigurationError or of a certificate, which the shell words itself": (
        "Pass that as token=...",
        "Pass token=...",
        "Pass token=... (a str) or set VPS_API_TOKEN",
        "Pass proxy='http://user:password@host:port'",
        "Or pass allow_insecure=True if the network is trusted",
        "Or pass allow_insecure=True if the proxy is trusted",
        f"For a certificate authority of your own pass {TRUSTING}",
    ),
    "arguments that no command passes, or checks before": (
        " must take a kind: def closed_for(self, kind=None)",
        "pass session= or connector=, not both",
        f"max_running needs {WAITING}: without, no backup is waited for",
        " s), or no create is ever sent again: create_again_after=None says so",
    ),
}


def texts(module: Path) -> list[str]:
    """The texts of a module that are no docstrings and no code."""
    tree = ast.parse(module.read_text("utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    said = [one.value for one in constants if isinstance(one.value, str) and id(one) not in docs]
    return [text for text in said if " " in text and not re.search(r"[<{]|unclosed|await", text)]


def test_no_text_of_the_library_that_the_shell_shows_speaks_of_python() -> None:
    """The hints in `errors` have a test of their own."""
    root = Path(vpsbackups_async.__file__).parent
    apart = {"testing", "cli", "errors.py", "report.py", "calendar.py"}
    modules = [one for one in root.rglob("*.py") if apart.isdisjoint(one.relative_to(root).parts)]
    found = {text for module in modules for text in texts(module) if CODE.search(text)}
    assert found == {text for those in SHOWN_BY_THE_LIBRARY_ALONE.values() for text in those}


async def test_a_rotation_on_a_full_server_is_told_in_the_words_of_the_shell(
    fake: FakeVPS, run: Here
) -> None:
    for _ in range(10):
        fake.add_backup(2, description="[job:j]")
    ended = await run("rotate", "-s", "2", "--job", "j", "--keep-last", "9", fake=fake)
    assert "deleting a good one to free a place was not asked for (make_room)" in ended.err
    assert "--make-room" in ended.err
    assert not PYTHON.search(ended.err)


async def test_a_small_new_backup_is_told_as_it_was_seen_and_in_the_words_of_the_shell(
    fake: FakeVPS, run: Here
) -> None:
    for _ in range(3):
        fake.add_backup(2, description="[job:j]", size_mb=40_000)
    fake.backup_seconds = 0
    options = ("--job", "j", "--keep-last", "3", "--ndjson", "--timeout", "20s")
    ended = await run("rotate", "-s", "2", *options, fake=fake)
    [one] = map(json.loads, ended.lines)
    assert (one["backup"]["status"], one["backup"]["size_mb"]) == ("completed", 4042)
    assert "less than half of the usual 40000 MB" in one["error"]["text"]
    assert not PYTHON.search(ended.err + one["error"]["text"])


async def test_an_https_url_of_an_http_server_is_told_plainly(fake: FakeVPS, run: Here) -> None:
    said = await doctor(run, fake, fake.url.replace("http", "https"))
    assert "no connection to 127.0.0.1:" in said
    assert "wrong version number" in said or "record layer failure" in said


async def test_a_certificate_of_an_unknown_authority_is_told_with_what_to_do(
    fake: FakeVPS, run: Here
) -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context, _ = certified()
    server = await asyncio.start_server(closes, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        said = await doctor(run, fake, f"https://127.0.0.1:{port}")
    assert "the certificate of 127.0.0.1 is not trusted: " in said
    assert "SSL_CERT_FILE=ca.pem" in said


async def test_a_log_line_has_no_hint_about_python(fake: FakeVPS, run: Here) -> None:
    fake.inject(Reply(429, b"{}", {"Retry-After": "0"}, times=1))
    ended = await run("list", "--debug", fake=fake)
    assert "429" in ended.err
    assert "retry_after" not in ended.err


TOO_MUCH = ("-s", "1", "--keep-daily", "7", "--keep-weekly", "4", "--keep-within", "36h")


@pytest.mark.parametrize("command", [("rotate", "--job", "j", "--ndjson"), ("prune",)])
async def test_a_policy_that_does_not_fit_is_told_in_plain_words(
    command: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    ended = await run(*command, *TOO_MUCH, fake=fake)
    said = ended.err.splitlines()[0]
    rules = "a policy of within=36h, daily=7, weekly=4 does not fit into 10 places"
    assert said.startswith(f"server 1: {rules}: ")
    assert re.search(r"; (\w+=\d+(, )?)+ fits\b", said), said
    assert not re.search("Retention|datetime", ended.out + ended.err)
    assert (command[0] == "rotate") == (f'"text": "{rules}' in ended.out)


@pytest.mark.parametrize("form", [(), ("--ndjson",)], ids=["rows", "ndjson"])
async def test_a_second_signal_says_nothing_of_a_client(
    form: tuple[str, ...], fake: FakeVPS
) -> None:
    fake.inject(Latency(600, method="POST"))
    begun = asyncio.Event()
    fake.on_request = lambda _: fake.count("POST") == 2 and begun.set()
    process = await start("create", "1", "2", *form, fake=fake)
    await begun.wait()
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 1)  # the client is being closed then
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    said = (out + err).decode()
    assert "the connection to the API is closed" in said
    assert "lient" not in said


async def test_one_request_is_no_requests(fake: FakeVPS, run: Here) -> None:
    ended = await run("list", "-v", fake=fake)
    assert ended.err.startswith("1 request, 0 of them repeated, ")
