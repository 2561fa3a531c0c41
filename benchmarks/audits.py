"""S15: an audit of 5,000 servers with 50,000 backups."""

import asyncio
import json
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks._table import Verdict
from benchmarks.streams import peak_kib
from vpsbackups_async import ALL_SERVERS, BackupsClient
from vpsbackups_async.audit import audit
from vpsbackups_async.testing import FakeVPS

_SERVERS = 5_000
_EACH = 10
_DAY = timedelta(days=1)
_ODD = {7: "never", 11: "stale", 13: "stuck", 17: "failing"}
"""The state of a server whose id ends a multiple of 100 plus this number."""


def planted(servers: int) -> dict[int, str]:
    """The state that each server is to be found in."""
    return {number: _ODD.get(number % 100, "ok") for number in range(1, servers + 1)}


def plant(fake: FakeVPS, servers: int) -> None:
    """Give each server ten backups, a day apart, or what makes it odd."""
    for number, state in planted(servers).items():
        for night in range(0 if state == "never" else _EACH):
            first = night == 0
            status = "completed"
            if first and state in {"stuck", "failing"}:
                status = "in_progress" if state == "stuck" else "Failed"
            late = timedelta(hours=30 if state == "stale" else 7)
            made = fake.now - late - night * _DAY
            text = f"Nightly {night} [job:nightly]"
            fake.add_backup(number, status=status, created_at=made, description=text)


def _serve(pipe: Connection, servers: int) -> None:
    async def run() -> None:
        async with FakeVPS(servers=servers, page_size=100) as fake:
            plant(fake, servers)
            pipe.send((fake.url, fake.token))
            await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


async def _audit(url: str, token: str, servers: int) -> dict[str, Any]:
    async with BackupsClient(token, base_url=url) as client:
        await client.list(page_size=1).first()
        first, requests = peak_kib(), client.stats.requests
        cpu, wall = time.process_time(), time.perf_counter()
        coverage = await audit(client, ALL_SERVERS, rpo=_DAY)
        measured = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "mb": (peak_kib() - first) * 1024 / 1e6,
            "requests": client.stats.requests - requests,
        }
    found = {one.server_id: str(one.state) for one in coverage.servers}
    wrong = Counter(found.items() ^ planted(servers).items())
    return measured | {"wrong": len(wrong)}


def measured_apart(module: str, servers: int) -> dict[str, Any]:
    """What the module prints as JSON, run in a new process on a fake server in another one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, servers), daemon=True)
    process.start()
    try:
        url, token = ours.recv()
        command = [sys.executable, "-m", module, url, token, str(servers)]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
        ours.send("stop")
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def record_cost(
    verdict: Verdict, what: str, measured: Mapping[str, Any], *, seconds: float
) -> None:
    """Record what the work took of CPU, for which there are so many seconds, and of memory."""
    print(f"{measured['requests']} requests, {measured['wall']:.1f} s")
    verdict.record(
        f"{what}, client CPU",
        measured=f"{measured['cpu']:.2f} s, {measured['requests']} requests",
        target=f"<= {seconds:g} s",
        met=measured["cpu"] <= seconds,
        ours=measured["cpu"],
        unit="s",
    )
    verdict.record(
        f"{what}, growth of the peak memory",
        measured=f"{measured['mb']:.1f} MB",
        target="<= 60 MB",
        met=measured["mb"] <= 60,
        ours=measured["mb"],
        unit="MB",
    )


def run(verdict: Verdict) -> None:
    """Audit a fake server in another process, from a new process."""
    servers = verdict.size(_SERVERS, 200)
    measured = measured_apart("benchmarks.audits", servers)
    what = f"S15 audit of {servers:,} servers with {servers * _EACH:,} backups"
    verdict.check("each server found in its state", right=not measured["wrong"])
    record_cost(verdict, what, measured, seconds=1)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_audit(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
