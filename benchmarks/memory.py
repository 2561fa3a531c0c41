"""S10: the memory of each of 100,000 waits, without the task that the caller runs it in."""

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks._table import Verdict
from vpsbackups_async import BackupRef, BackupsClient, ConstantBackoff
from vpsbackups_async.testing import FakeVPS

_COUNT = 100_000
TARGET = 2_048
_BACKOFF = ConstantBackoff(1_000)


def run(verdict: Verdict) -> None:
    """Measure each case in its own process, so that none reuses memory that another freed."""
    count = verdict.size(_COUNT, 500)
    print(f"bytes for each of {count:,} tasks, one of them an idle task, or one that waits")
    print(f"{'':12}{'idle':>8}{'waiting':>9}{'a wait':>8}")
    for how in ("tracemalloc", "rss"):
        idle, waiting = (_in_a_process(how, what, count) for what in ("idle", "waiting"))
        print(f"{how:12}{idle:8.0f}{waiting:9.0f}{waiting - idle:8.0f}")
        verdict.record(
            f"S10 one of {count:,} waits, memory by {how}",
            measured=f"{waiting - idle:.0f} B",
            target=f"<= {TARGET} B",
            met=waiting - idle <= TARGET,
            ours=waiting - idle,
            unit="B",
        )


def memory_of_a_wait(how: str, count: int) -> float:
    """The bytes of each of so many waits, without its task; `how` is "tracemalloc" or "rss"."""
    idle, waiting = (_in_a_process(how, what, count) for what in ("idle", "waiting"))
    return waiting - idle


def _in_a_process(how: str, what: str, count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", how, what, str(count)]
    root = Path(__file__).parent.parent
    return float(subprocess.run(command, check=True, capture_output=True, cwd=root).stdout)


async def _measured(how: str, what: str, count: int) -> float:
    async with FakeVPS() as fake, BackupsClient(fake.token, base_url=fake.url) as client:
        never = asyncio.get_running_loop().create_future()

        async def idle(_: BackupRef) -> object:
            return await never

        async def wait(ref: BackupRef) -> object:
            return await client.wait(ref, backoff=_BACKOFF)

        work: Callable[[BackupRef], Awaitable[object]] = idle if what == "idle" else wait
        refs = [BackupRef(number, 1) for number in range(1, count + 1)]
        gc.collect()
        if how == "tracemalloc":
            tracemalloc.start()
        before = _memory(how)
        tasks = [asyncio.ensure_future(work(ref)) for ref in refs]
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        used = _memory(how) - before
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return used / count


def _memory(how: str) -> int:
    return tracemalloc.get_traced_memory()[0] if how == "tracemalloc" else resident()


def resident() -> int:
    """The bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4_096


if __name__ == "__main__":
    print(asyncio.run(_measured(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
