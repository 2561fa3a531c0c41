"""S14 and more: `fleet.create(wait=True)` over 300 and over 100,000 servers of the fake.

Client and fake share a process and virtual time, so that a night takes minutes. The backups take as
long as those of the benchmark `waiting`. The memory of a running wait is the growth of the process
once all backups run, beyond that of a run that starts the same backups and waits for none. A part
of it is the hub's (S10 in the benchmark `memory`); the rest is the fleet's, the task included.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._fake_list import durations
from benchmarks._table import Verdict
from benchmarks.memory import TARGET, memory_of_a_wait, resident
from vpsbackups_async import BackupsClient
from vpsbackups_async.events import CreateEnded, Event
from vpsbackups_async.testing import FakeVPS, VirtualTime

SERVERS = 100_000
_AFTER_A_LOOK = 12.0
"""Seconds after the start: every wait has looked once, and no backup has ended."""
_LATE = 60.0
_GETS = 0.3


async def night(seconds: list[float], *, wait: bool) -> dict[str, float]:
    """Back up one server for each of `seconds`, with or without waiting for the ends.

    Returns the outcomes that were right, the time (s) on the virtual clock, the CPU time (s) of
    client and fake, the requests for lists, and how many bytes the process had grown once all
    backups ran, and once each had been looked at.
    """
    count, running = len(seconds), asyncio.Event()
    started = right = 0

    def on_event(event: Event) -> None:
        nonlocal started
        started += isinstance(event, CreateEnded)
        if started == count:
            running.set()

    with VirtualTime() as clock:
        async with (
            FakeVPS(
                servers=count,
                page_size=100,
                backup_seconds=lambda made: seconds[made["server"]["id"] - 1],
            ) as fake,
            BackupsClient(fake.token, base_url=fake.url, on_event=on_event) as client,
        ):
            before = _memory()

            async def growth() -> tuple[int, int]:
                await running.wait()
                begun = _memory() - before
                await asyncio.sleep(_AFTER_A_LOOK)
                return begun, _memory() - before

            measuring = asyncio.create_task(growth())
            began, cpu = clock.elapsed, time.process_time()
            async for outcome in client.fleet(range(1, count + 1)).create(wait=wait, timeout=None):
                right += outcome.unwrap().is_completed is wait
            took, cpu = clock.elapsed - began, time.process_time() - cpu
            begun, looked = await measuring
            return {
                "right": right,
                "made": fake.count("POST", status=201),
                "seconds": took,
                "cpu": cpu,
                "gets": fake.count("GET"),
                "begun": begun,
                "looked": looked,
            }


def _memory() -> int:
    gc.collect()
    return resident()


def _in_a_process(count: int, *, wait: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.fleet_waits", str(count), "wait" * wait]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _three_hundred(verdict: Verdict) -> None:
    seconds = asyncio.run(night([240.0] * 300, wait=True))["seconds"]
    verdict.record(
        "S14 fleet.create(wait=True), 300 servers of 240 s",
        measured=f"{seconds:.0f} s",
        target="<= 320 s",
        met=seconds <= 320,
        ours=seconds,
        unit="s",
    )


def run(verdict: Verdict) -> None:
    """Run both fleets; print and check what they took."""
    _three_hundred(verdict)
    count = verdict.size(SERVERS, 300)
    longest = max(durations(count, night=1))
    waited, started = (_in_a_process(count, wait=wait) for wait in (True, False))
    verdict.check("a completed backup for each server", right=waited["right"] == count)
    verdict.check("each backup made once", right=waited["made"] == started["made"] == count)
    late = waited["seconds"] - longest
    verdict.record(
        f"fleet.create(wait=True), {count:,} servers: time beyond the longest backup",
        measured=f"{late:.0f} s beyond {longest:.0f} s",
        target=f"<= {_LATE:g} s",
        met=late <= _LATE,
        ours=late,
        unit="s",
    )
    gets = waited["gets"] / count
    verdict.record(
        f"fleet.create(wait=True), {count:,} servers: looks a backup, beside its create",
        measured=f"{gets:.3f} requests",
        target=f"<= {_GETS:g}",
        met=gets <= _GETS,
        ours=gets,
        unit="requests",
    )
    begun, looked = ((waited[when] - started[when]) / count for when in ("begun", "looked"))
    ours = begun - memory_of_a_wait("rss", count)
    verdict.record(
        f"fleet.create(wait=True), memory of one of {count:,} running waits, beside the hub's",
        measured=f"{ours:.0f} B; {begun:.0f} B with it, {looked:.0f} B once the backup was seen",
        target=f"<= {TARGET} B",
        met=ours <= TARGET,
        ours=ours,
        unit="B",
    )
    print(
        f"  CPU of client and fake {waited['cpu'] / count * 1e6:.0f} µs a backup, "
        f"{started['cpu'] / count * 1e6:.0f} without waits"
    )


if __name__ == "__main__":
    given, how = durations(int(sys.argv[1]), night=1), sys.argv[2]
    print(json.dumps(asyncio.run(night(given, wait=how == "wait"))))
