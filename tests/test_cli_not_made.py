"""`--not-made-to` after an interruption: only servers that certainly got no backup."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import start

from vpsbackups_async.testing import FakeVPS, Fault, RateLimit, ServerFault


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=9, visible_after=1000, clock=time.time) as server:
        yield server


@pytest.mark.parametrize(
    ("fault", "left", "kind"),
    [
        (RateLimit(60, method="POST", times=1), "5\n", "NotAttemptedError"),
        (
            ServerFault(503, method="POST", retry_after=60, when="after", times=1),
            "",
            "CreateOutcomeUnknownError",
        ),
    ],
    ids=["429", "503"],
)
async def test_a_create_interrupted_in_its_pause_is_certain_only_after_a_refusal(
    fault: Fault, left: str, kind: str, fake: FakeVPS, tmp_path: Path
) -> None:
    fake.inject(fault)
    file = tmp_path / "left"
    process = await start("create", "5", "--ndjson", "--not-made-to", str(file), fake=fake)
    while not fake.count("POST"):  # noqa: ASYNC110  # the fake has no hook after its answers
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # earlier, it is interrupted on the wire, and has no pause
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, file.read_text()) == (130, left)
    assert json.loads(out)["error"]["type"] == kind
    assert ("vpsbackups create --unless-newer-than 1h 5" in err.decode()) == (not left)
