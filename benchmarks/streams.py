"""S5 and S6: memory used by a stream of a million backups, and the gain from prefetching."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._server import PAGE_SIZE, serving
from benchmarks._table import Verdict
from vpsbackups_async import BackupsClient

_BACKUPS = 1_000_000
_PAGES_AHEAD = 200
_LATENCY = 0.02
_AHEAD = 8
_ROUNDS = 3


async def _stream(url: str) -> dict[str, float]:
    """The number of backups, the time and CPU (s), and the growth of peak memory (MB).

    The memory is that used beyond the first page.
    """
    async with BackupsClient("vps_benchmark", base_url=url) as client:
        backups = first = 0
        cpu, wall = time.process_time(), time.perf_counter()
        async for _ in client.list(page_size=PAGE_SIZE):
            backups += 1
            if backups == 1:
                first = peak_kib()
        return {
            "backups": backups,
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "mb": (peak_kib() - first) * 1024 / 1e6,
        }


def peak_kib() -> int:
    """The peak memory (resident set size) of this process in KiB."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def streamed(url: str) -> dict[str, float]:
    """The result of `_stream`, from a new process."""
    command = [sys.executable, "-m", "benchmarks.streams", url]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


async def _read_pages(url: str, prefetch: int) -> tuple[int, float]:
    async with BackupsClient("vps_benchmark", base_url=url) as client:
        began = time.perf_counter()
        backups = await client.list(page_size=PAGE_SIZE, prefetch=prefetch).collect()
        return len(backups), time.perf_counter() - began


def run(verdict: Verdict) -> None:
    """Measure both."""
    total = verdict.size(_BACKUPS, 1_000)
    with serving(total=total) as url:
        measured = streamed(url)
    verdict.check(f"{total:,} backups streamed", right=measured["backups"] == total)
    verdict.record(
        f"S5 a stream of {total:,} backups: growth of the peak over the first page's",
        measured=f"{measured['mb']:.1f} MB, {measured['cpu'] / total * 1e6:.2f} µs CPU a backup",
        target="<= 25 MB",
        met=measured["mb"] <= 25,
        ours=measured["mb"],
        unit="MB",
    )
    pages = verdict.size(_PAGES_AHEAD, 10)
    best = {0: float("inf"), _AHEAD: float("inf")}
    with serving(total=pages * PAGE_SIZE, latency=_LATENCY) as url:
        for _ in range(verdict.size(_ROUNDS, 1)):
            for prefetch, least in best.items():
                backups, took = asyncio.run(_read_pages(url, prefetch))
                verdict.check("each page read", right=backups == pages * PAGE_SIZE)
                best[prefetch] = min(least, took)
    times = best[0] / best[_AHEAD]
    verdict.record(
        f"S6 {pages} pages, {_LATENCY * 1e3:g} ms a reply, prefetch={_AHEAD}",
        measured=f"{best[_AHEAD]:.2f} s against {best[0]:.2f} s, {times:.1f} x faster",
        target=">= 6 x",
        met=times >= 6,
        ours=best[_AHEAD],
        peers={"prefetch=0": best[0]},
        unit="s",
        ratio=1 / times,
    )


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_stream(sys.argv[1]))))
