"""S8: what a million items of a fleet cost; and how close 20,000 creates come to the ideal time.

The first uses a client that does nothing, so it measures the fan-out itself. The second uses a fake
server in another process that takes 300 ms for each create.
"""

import asyncio
import multiprocessing
import os
import time
import tracemalloc
from collections.abc import Iterator
from multiprocessing.connection import Connection

from yarl import URL

from benchmarks._table import Verdict
from vpsbackups_async import AdaptiveLimiter, BackupsClient, Progress
from vpsbackups_async._lists.lists import KnownLists, Lists
from vpsbackups_async._transport.secrets import Redactor
from vpsbackups_async.fleet import Fleet
from vpsbackups_async.testing import FakeVPS, Latency

ITEMS = 1_000_000
CREATES = 20_000
AT_ONCE = 100
SECONDS = 0.3
_ROUNDS = 3
_SAMPLE_EVERY = 997


class InstantClient:
    """A client whose creates return at once; samples the number of tasks."""

    def __init__(self) -> None:
        self.most_tasks = 0
        self._started = 0

    async def create(self, server_id: int, *, description: str | None = None) -> int:
        self._started += 1
        if not self._started % _SAMPLE_EVERY:
            self.most_tasks = max(self.most_tasks, len(asyncio.all_tasks()))
        return server_id


def ids(count: int) -> Iterator[int]:
    yield from range(1, count + 1)


async def drive(count: int, client: InstantClient, **options: object) -> int:
    outcomes = 0
    known = KnownLists(URL("http://127.0.0.1"), Redactor())
    lists = Lists(None, known)  # required, but nothing is listed
    async for _ in Fleet(client, ids(count), concurrency=64, lists=lists, rotator=None).create(
        **options
    ):
        outcomes += 1
    return outcomes


def cpu_of_an_item(items: int, **options: object) -> float:
    """The CPU time of one item in µs; the best of a few rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        asyncio.run(drive(items, InstantClient(), **options))
        best = min(best, time.process_time() - began)
    return best / items * 1e6


async def growth(items: int) -> tuple[float, int, int]:
    """Growth of peak memory over 1,000 items (MB), number of outcomes, and most live tasks."""
    tracemalloc.start()
    await drive(1_000, InstantClient())
    before = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    client = InstantClient()
    outcomes = await drive(items, client)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return max(0, peak - before) / 1e6, outcomes, client.most_tasks


def _serve(pipe: Connection) -> None:
    async def run() -> None:
        slow = Latency(SECONDS, method="POST")
        async with FakeVPS(servers=CREATES, backup_seconds=1e6, faults=[slow]) as fake:
            pipe.send((fake.url, fake.token))
            await asyncio.to_thread(pipe.recv)
            pipe.send(len(fake.backups))

    asyncio.run(run())


async def create_all(url: str, token: str, creates: int) -> tuple[float, float, int]:
    """Create a backup on each server; elapsed seconds, CPU seconds and number of successes."""
    reports: list[Progress] = []
    limiter = AdaptiveLimiter(maximum=AT_ONCE)
    async with BackupsClient(token, base_url=url, limiter=limiter) as client:
        began, cpu = time.perf_counter(), time.process_time()
        ok = 0
        fleet = client.fleet(ids(creates), concurrency=AT_ONCE)
        async for outcome in fleet.create(on_progress=reports.append):
            ok += outcome.ok
        took = time.perf_counter() - began
        return took, time.process_time() - cpu, ok


def pace(creates: int) -> tuple[float, float, int, int]:
    """The results of `create_all`, and the number of backups that the server then has."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,))
    server.start()
    try:
        url, token = ours.recv()
        took, cpu, ok = asyncio.run(create_all(url, token, creates))
        ours.send("stop")
        held = ours.recv()
    finally:
        server.join(10)
        if server.is_alive():
            server.terminate()
            server.join()
    return took, cpu, ok, held


def run(verdict: Verdict) -> None:
    """Run both measurements and print their results."""
    items, creates = verdict.size(ITEMS, 2_000), verdict.size(CREATES, 200)
    print(f"{items:,} ids from a generator, 64 at once, work that does nothing")
    cpu = cpu_of_an_item(items)
    with_progress = cpu_of_an_item(items, on_progress=lambda _: None)
    print(f"  CPU {cpu:.1f} µs an item, {with_progress:.1f} with on_progress")
    verdict.record(
        f"S8 CPU an item of {items:,}",
        measured=f"{with_progress:.1f} µs",
        target="<= 20 µs",
        met=with_progress <= 20,
        ours=with_progress,
        unit="µs",
    )
    memory, outcomes, tasks = asyncio.run(growth(items))
    verdict.record(
        "S8 growth of the memory",
        measured=f"{memory:.2f} MB",
        target="<= 10 MB",
        met=memory <= 10,
        ours=memory,
        unit="MB",
    )
    verdict.record(
        "S8 live tasks",
        measured=f"{tasks} ({outcomes:,} outcomes)",
        target="<= 64 + 2",
        met=tasks <= 66,
        ours=tasks,
    )
    verdict.check("an outcome for each item", right=outcomes == items)
    ideal = creates / AT_ONCE * SECONDS
    took, busy, ok, held = pace(creates)
    verdict.check("each backup made once", right=ok == held == creates)
    print(
        f"{creates:,} creates of {SECONDS:.1f} s, {AT_ONCE} at once: {took:.1f} s "
        f"(ideal {ideal:.0f}), client CPU {busy / creates * 1e6:.0f} µs each, "
        f"{os.cpu_count()} cores"
    )
    verdict.record(
        f"{creates:,} creates of {SECONDS:.1f} s, {AT_ONCE} at once, beside the ideal",
        measured=f"{took:.1f} s, {took / ideal:.3f} of the ideal, {held:,} backups",
        target="<= 1.15 x",
        met=took <= 1.15 * ideal,
        ours=took,
        unit="s",
        ratio=took / ideal,
    )
