"""A long run with many kinds of faults: memory stays flat, and no task or outcome is lost.

It makes 100,000 calls of all verbs, 64 at a time, against a fake server in another process that
spoils about one reply in eight.
"""

import asyncio
import gc
import multiprocessing
import random
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks._table import Verdict
from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ConstantBackoff,
    Outcome,
    RetryPolicy,
    VPSBackupsError,
    fan_out,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Garbage,
    HostileNext,
    Latency,
    NotJSON,
    Oversized,
    RateLimit,
    Redirect,
    ServerFault,
    Truncate,
)

CALLS = 100_000
AT_ONCE = 64
SERVERS = 2_000
_WARM = 0.3
_SAMPLES = 20
_GROWTH_MB = 8.0
_CAP = 256 * 1024

FAULTS: tuple[Fault, ...] = (
    Latency(0.01, chance=0.05),
    RateLimit(0, chance=0.02),
    ServerFault(503, chance=0.02),
    ServerFault(502, html=True, chance=0.01),
    ServerFault(500, when="after", chance=0.01),
    Drop("before", chance=0.01),
    Drop("after", chance=0.01),
    Truncate(chance=0.01),
    NotJSON(chance=0.01),
    Garbage(chance=0.005),
    Oversized(2 * _CAP, chance=0.002),
    HostileNext("https://elsewhere.example/api/v1/backups/?page=2", chance=0.01),
    Redirect("/login/", chance=0.005),
)


def _serve(pipe: Connection) -> None:
    async def run() -> None:
        async with FakeVPS(
            servers=SERVERS, backups=2, quota=10**6, backup_seconds=0, faults=FAULTS, seed=5
        ) as fake:
            pipe.send((fake.url, fake.token))
            while not pipe.poll():
                await asyncio.sleep(0.2)
                fake.requests.clear()  # or its growth could force the client's process to swap

    asyncio.run(run())


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Soak:
    """Makes the calls, and records their outcomes and samples of the memory (MB)."""

    def __init__(self, client: BackupsClient, calls: int) -> None:
        self._client = client
        self._random = random.Random(3)
        self.kinds: Counter[str] = Counter()
        self.seen = bytearray(calls)
        self.rss: list[float] = []

    async def call(self, number: int) -> None:
        """Call a random verb on a random server."""
        client, server_id = self._client, self._random.randint(1, SERVERS)
        verb = self._random.random()
        if verb < 0.6:
            await client.list(server_id=server_id).collect()
        elif verb < 0.75:
            await client.list(page_size=100, prefetch=2).collect(limit=150)
        elif verb < 0.9:
            backup = await client.create(server_id)
            await client.delete(backup.id)
        else:
            await client.restore(server_id, server_id)

    def record(self, outcome: Outcome[int, None]) -> None:
        self.seen[outcome.key] += 1
        self.kinds[type(outcome.error).__name__ if outcome.error else "ok"] += 1
        if outcome.error is not None and not isinstance(outcome.error, VPSBackupsError):
            raise outcome.error
        if not outcome.key % (len(self.seen) // _SAMPLES):
            gc.collect()
            self.rss.append(_rss_mb())


async def soak(url: str, token: str, calls: int) -> tuple[Soak, int, int, float]:
    limiter = AdaptiveLimiter(AT_ONCE)
    retry = RetryPolicy(backoff=ConstantBackoff(0), budget=None, create_grace=0.05)
    before = asyncio.all_tasks()
    began = time.perf_counter()
    async with BackupsClient(
        token, base_url=url, limiter=limiter, retry=retry, max_response_bytes=_CAP
    ) as client:
        run = Soak(client, calls)
        async for outcome in fan_out(run.call, range(calls), concurrency=AT_ONCE):
            run.record(outcome)
        print(f"{client.stats}")
    await asyncio.sleep(0.1)
    left = len(asyncio.all_tasks() - before)
    return run, left, limiter.running, time.perf_counter() - began


def run(verdict: Verdict) -> None:
    """Run the calls, print how they ended, and check for growth and leftovers."""
    calls = verdict.size(CALLS, 1_000)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        done, tasks, slots, seconds = asyncio.run(soak(*ours.recv(), calls))
    finally:
        ours.send("stop")
        server.join(10)
    print(f"{calls:,} calls in {seconds:.0f} s: {dict(done.kinds.most_common())}")
    print("RSS in MB, in twentieths of the run: " + " ".join(f"{mb:.0f}" for mb in done.rss))
    warm = done.rss[int(_WARM * len(done.rss)) :]
    growth = max(warm[len(warm) // 2 :]) - max(warm[: len(warm) // 2])
    verdict.record(
        "soak: memory growth between the halves after warm-up",
        measured=f"{growth:.1f} MB",
        target=f"<= {_GROWTH_MB:g} MB",
        met=growth <= _GROWTH_MB,
        ours=growth,
        unit="MB",
    )
    verdict.check("soak: one outcome for each call", right=set(done.seen) == {1})
    verdict.check(f"soak: {tasks} tasks and {slots} slots left", right=not tasks and not slots)
