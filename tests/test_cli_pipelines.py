"""The README's pipelines run in a shell as they are written there."""

import asyncio
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import environment
from helpers_readme import README

from vpsbackups_async.testing import FakeVPS, Latency

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no bash"),
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not on this machine")
        for name in ("bash", "jq")
    ),
]

(BLOCK,) = re.findall(
    r"^```bash\n(vpsbackups .*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
LIST, CREATE, FAILED, WAIT, AGAIN = BLOCK.splitlines()


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=12, backup_seconds=600, clock=time.time) as server:
        server.add_backup(3)
        server.add_backup(4, status="failed")
        yield server


async def shell(line: str, fake: FakeVPS, folder: Path) -> asyncio.subprocess.Process:
    """Start a line of a shell in which `vpsbackups` is this package's."""
    set_up = f'set -o pipefail; vpsbackups() {{ {sys.executable} -m vpsbackups_async "$@"; }}; '
    return await asyncio.create_subprocess_exec(
        *("bash", "-c", set_up + line), cwd=folder, env=environment(fake), stdout=-1, stderr=-1
    )


async def said(line: str, fake: FakeVPS, folder: Path) -> list[str]:
    """The lines that the pipeline writes; it must succeed."""
    process = await shell(line, fake, folder)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def test_a_list_is_filtered_by_jq(fake: FakeVPS, tmp_path: Path) -> None:
    assert await said(LIST, fake, tmp_path) == ["1:3"]


async def test_an_interrupted_create_is_resumed_without_a_second_backup_of_a_server(
    fake: FakeVPS, tmp_path: Path
) -> None:
    for made in list(fake.backups):
        fake.remove_backup(made["id"])
    fake.inject(Latency(0.5, method="POST", after=5))
    begun = asyncio.Event()
    fake.on_request = lambda _: fake.count("POST") >= 8 and begun.set()
    (tmp_path / "fleet.txt").write_text("\n".join(map(str, range(1, 13))))
    create = CREATE.replace(
        "vpsbackups create", f"exec {sys.executable} -m vpsbackups_async create"
    )
    process = await shell(create.replace("--wait", "--wait --concurrency 3"), fake, tmp_path)
    await begun.wait()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    told = [json.loads(line) for line in (tmp_path / "made.ndjson").read_text().splitlines()]
    assert sorted(one["key"] for one in told) == list(range(1, 13))
    assert len(await said(FAILED, fake, tmp_path)) == 12

    fake.on_request = None
    fake.clear_faults()
    first = [made["id"] for made in fake.backups]
    for backup_id in first:
        fake.finish(backup_id)
    assert {int(line.partition(":")[0]) for line in await said(WAIT, fake, tmp_path)} == set(first)
    assert len(await said(AGAIN, fake, tmp_path)) == 12 - len(first)
    assert sorted(made["server"]["id"] for made in fake.backups) == list(range(1, 13))
