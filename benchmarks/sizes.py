"""Time and memory for 1 to 1,000,000 backups and for 1 to 100,000 servers."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._server import serving
from benchmarks._table import Verdict
from benchmarks.streams import peak_kib, streamed
from vpsbackups_async import BackupsClient

_BACKUPS = (1, 100, 10_000, 100_000, 1_000_000)
_SERVERS = (1, 100, 1_000, 10_000, 100_000)
_SMOKE = (1, 200)


async def _create(url: str, servers: int) -> dict[str, float]:
    """Create a backup on each of `servers` servers, at the default concurrency of 64."""
    async with BackupsClient("vps_benchmark", base_url=url) as client:
        await client.list(server_id=1, page_size=1).first()
        first, made = peak_kib(), 0
        cpu, wall = time.process_time(), time.perf_counter()
        ids = (number for number in range(1, servers + 1))
        async for outcome in client.fleet(ids).create(description="Nightly"):
            made += outcome.ok
        return {
            "made": made,
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "mb": (peak_kib() - first) * 1024 / 1e6,
        }


def _created(url: str, servers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.sizes", url, str(servers)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def run(verdict: Verdict) -> None:
    """Measure a list that is read to its end, and a create on each server of a fleet."""
    seconds: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    for count in _SMOKE if verdict.smoke else _BACKUPS:
        with serving(total=count) as url:
            measured = streamed(url)
        verdict.check(f"{count:,} backups streamed", right=measured["backups"] == count)
        seconds.append((count, 1e3 * measured["cpu"]))
        memory.append((count, max(0.0, measured["mb"])))
    fleet: list[tuple[float, float]] = []
    fleet_memory: list[tuple[float, float]] = []
    with serving() as url:
        for count in _SMOKE if verdict.smoke else _SERVERS:
            measured = _created(url, count)
            verdict.check(f"{count:,} backups made", right=measured["made"] == count)
            fleet.append((count, 1e3 * measured["cpu"]))
            fleet_memory.append((count, max(0.0, measured["mb"])))
    verdict.curve("client CPU", "N", "ms", list_of_N_backups=seconds, create_on_N_servers=fleet)
    verdict.curve(
        "growth of the peak memory", "N", "MB", list_of_N_backups=memory,
        create_on_N_servers=fleet_memory,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_create(sys.argv[1], int(sys.argv[2])))))
