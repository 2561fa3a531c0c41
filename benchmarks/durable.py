"""Durable runs on PostgreSQL: workers at one rate over many servers, and a million submitted.

Each worker is a process `vpsbackups run work`. PostgreSQL, the fake server and the workers share
the machine, each in processes of its own. Needs the `durable` extra, PostgreSQL's programs and
Linux.
"""

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg
from yarl import URL

from benchmarks._arrivals import Relay, relaying
from benchmarks._table import Verdict
from benchmarks.redis_limit import most_within

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers_postgres import Postgres, find_programs, running_postgres

from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.testing import FakeVPS

WORKERS = 3


class _Workers:
    """Worker processes, and the most memory that one of them took, in MB."""

    def __init__(self, url: str, api: "_Api", rate: float) -> None:
        self._command = (sys.executable, "-m", "vpsbackups_async", "run", "work", "--until-done")
        self._options = ("--database", url, "--rate", str(rate), "-q")
        self._environment = os.environ | {"VPS_API_TOKEN": api.token, "VPS_API_URL": api.url}
        self._processes: list[asyncio.subprocess.Process] = []
        self.peak = 0.0

    async def start(self, count: int) -> None:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                *self._command, *self._options, env=self._environment
            )
            self._processes.append(process)

    async def run(self, seconds: float) -> bool:
        """Whether all have ended within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            left = [one for one in self._processes if one.returncode is None]
            if not left:
                return True
            for one in left:
                self.peak = max(self.peak, _memory_of(one.pid))
            await asyncio.sleep(0.5)
        return False

    async def end(self) -> None:
        for one in self._processes:
            if one.returncode is None:
                one.kill()
                await one.wait()


def _memory_of(pid: int) -> float:
    """The memory of a process in MB, by Linux; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Api:
    """The fake server in its own process, behind a relay."""

    def __init__(self, pipe: Connection, relay: Relay, token: str) -> None:
        self._pipe = pipe
        self.relay = relay
        self.token = token
        self.url = f"http://127.0.0.1:{relay.port}"

    def seen(self) -> tuple[int, int]:
        """How many creates the server received, and how many requests for a list."""
        self._pipe.send("seen")
        posts, lists = self._pipe.recv()
        return posts, lists


@contextmanager
def _fake(servers: int, seconds: float) -> Iterator[_Api]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, servers, seconds), daemon=True)
    process.start()
    theirs.close()  # so that its end is seen here
    try:
        port, token = ours.recv()
        with relaying(port) as relay:
            yield _Api(ours, relay, token)
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, servers: int, seconds: float) -> None:
    with FakeVPS(servers=servers, backups=0, backup_seconds=seconds).in_thread() as fake:
        pipe.send((URL(fake.url).port, fake.token))
        pipe.recv()
        lists = sum(one.method == "GET" and one.path.endswith("/backups/") for one in fake.requests)
        pipe.send((fake.count("POST"), lists))
        pipe.recv()


async def _at_a_rate(
    verdict: Verdict, postgres: Postgres, servers: int, rate: float, seconds: float
) -> None:
    url = postgres.new_database()
    with _fake(servers, seconds) as api:
        async with DurableFleet(url) as fleet:
            await fleet.submit("nightly", range(1, servers + 1), description="Nightly")
            workers = _Workers(url, api, rate)
            began = time.monotonic()
            try:
                await workers.start(WORKERS)
                await workers.run(servers / rate + seconds + 240)
            finally:
                await workers.end()
            took = time.monotonic() - began
            completed = (await fleet.progress("nightly")).completed
        starts = api.relay.creates()
        received, lists = api.seen()
    right = completed == len(starts) == received == servers
    verdict.check("each server has one backup", right=right)
    achieved = (len(starts) - 1) / (starts[-1] - starts[0])
    print(f"{completed} servers in {took:.0f} s, {achieved:.1f} starts a second")
    most = most_within(starts, 1.0)
    verdict.record(
        f"{WORKERS} workers at {rate:g} starts a second: the most in any second",
        measured=f"{most}, {achieved:.1f} on average",
        target=f"<= {1.1 * rate:.0f}",
        met=most <= 1.1 * rate,
    )
    verdict.record(
        f"lists for each of {servers:,} backups",
        measured=f"{lists / servers:.2f}",
        target="<= 0.3",
        met=lists <= 0.3 * servers or verdict.smoke,
    )
    verdict.record(
        "memory of a worker", measured=f"{workers.peak:.0f} MB", target="<= 250 MB",
        met=workers.peak <= 250,
    )  # fmt: skip


async def _million(verdict: Verdict, postgres: Postgres, servers: int, seconds: float) -> None:
    url = postgres.new_database()
    with _fake(servers, 60.0) as api:
        async with DurableFleet(url) as fleet:
            began = time.monotonic()
            await fleet.submit("all", range(1, servers + 1), description="Nightly")
            submitted = time.monotonic() - began
            size = _size_of(url)
            workers = _Workers(url, api, 1000.0)
            try:
                await workers.start(WORKERS)
                while (await fleet.progress("all")).waiting == servers:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                first, began = await fleet.progress("all"), time.monotonic()
                await workers.run(seconds)
                last, took = await fleet.progress("all"), time.monotonic() - began
                asked = time.monotonic()
                await fleet.progress("all")
                counted = time.monotonic() - asked
            finally:
                await workers.end()
    rate = (first.waiting - last.waiting) / took
    print(
        f"{servers:,} submitted in {submitted:.0f} s, {size / 1e6:.0f} MB; status {counted:.2f} s"
    )
    print(f"{first.waiting - last.waiting:,} begun and {last.ended:,} ended in {took:.0f} s")
    verdict.record(
        f"{servers:,} servers submitted",
        measured=f"{submitted:.0f} s, {size / 1e6:.0f} MB, {servers / submitted:,.0f} a second",
        target="",
        met=True,
    )
    verdict.record(
        f"begun a second by {WORKERS} workers without a limit to matter, of {servers:,}",
        measured=f"{rate:.0f}, so that all take {servers / max(rate, 1) / 3600:.1f} h",
        target="",
        met=rate > 0,
    )


def _size_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0


async def _measure(verdict: Verdict, postgres: Postgres) -> None:
    if verdict.smoke:
        await _at_a_rate(verdict, postgres, 100, 50.0, 1.0)
        await _million(verdict, postgres, 2000, 3.0)
    else:
        await _at_a_rate(verdict, postgres, 10_000, 100.0, 20.0)
        await _million(verdict, postgres, 1_000_000, 180.0)


def run(verdict: Verdict) -> None:
    """Measure, and check the targets."""
    if find_programs() is None:
        verdict.record("PostgreSQL to measure with", "none", "initdb on the PATH", met=False)
        return
    with running_postgres() as postgres:
        asyncio.run(_measure(verdict, postgres))
