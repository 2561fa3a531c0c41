"""S11 and the rate of creates: how well the default limiter adapts to a server's limits.

Both run against the fake server on virtual time, so the seconds are virtual.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from attrs import frozen

from benchmarks._table import Verdict
from benchmarks.waiting import on_virtual_time
from vpsbackups_async import BackupsClient, Timeouts
from vpsbackups_async.testing import FakeVPS, Latency

CALLS = 2_000
AT_ONCE = 5
WARM_UP = 200
CREATES = 500
RATE = 30.0
LATENCIES = (0.05, 0.3)
_NO_END = Timeouts(deadline=1e6)


@frozen
class Run:
    """The result of a run.

    `refused` counts the requests that got a 429; `refused_late` is the fraction refused after the
    first `WARM_UP` requests. `limit` is the client's limit at the end, `backups` the number of
    backups that the server then has.
    """

    succeeded: int
    requests: int
    refused: int
    refused_late: float
    seconds: float
    limit: int | None
    backups: int


def limited_by_concurrency(latency: float, count: int) -> Run:
    """Run `count` lists against a server that allows `AT_ONCE` requests at a time."""

    async def work() -> Run:
        fake = FakeVPS(servers=1, backups=1, max_concurrent=AT_ONCE, faults=[Latency(latency)])
        async with (
            fake,
            BackupsClient(fake.token, base_url=fake.url, timeouts=_NO_END) as client,
        ):
            calls = [client.list().first() for _ in range(count)]
            return await _measured(fake, client, calls)

    return on_virtual_time(work)


def limited_by_rate(latency: float, count: int) -> Run:
    """Create a backup on `count` servers where `RATE` requests a second are allowed."""

    async def work() -> Run:
        fake = FakeVPS(servers=count, backups=0, rate_limit=RATE, faults=[Latency(latency)])
        async with fake, BackupsClient(fake.token, base_url=fake.url) as client:
            calls = [client.create(number) for number in range(1, count + 1)]
            return await _measured(fake, client, calls)

    return on_virtual_time(work)


async def _measured(
    fake: FakeVPS, client: BackupsClient, calls: list[Coroutine[Any, Any, object]]
) -> Run:
    loop = asyncio.get_running_loop()
    began = loop.time()
    results = await asyncio.gather(*calls, return_exceptions=True)
    late = fake.requests[WARM_UP:] or fake.requests
    return Run(
        sum(not isinstance(result, BaseException) for result in results),
        len(fake.requests),
        fake.count(status=429),
        sum(seen.status == 429 for seen in late) / len(late),
        loop.time() - began,
        client.stats.limit,
        len(fake.backups),
    )


def _row(name: str, latency: float, run: Run) -> None:
    print(
        f"{name:22}{latency:9.2f}{run.succeeded:11,}{run.requests:10,}{run.refused:6}"
        f"{100 * run.refused_late:9.2f} %{run.seconds:9.1f}{run.limit:7}"
    )


def run(verdict: Verdict) -> None:
    """Measure both limits at each latency (s)."""
    print(
        f"{'the server allows':22}{'latency':>9}{'succeeded':>11}{'requests':>10}{'429s':>6}"
        f"{'of later':>11}{'seconds':>9}{'limit':>7}"
    )
    calls, creates = verdict.size(CALLS, 300), verdict.size(CREATES, 60)
    for latency in LATENCIES:
        lists = limited_by_concurrency(latency, calls)
        _row(f"{AT_ONCE} at once", latency, lists)
        verdict.check("each list succeeded", right=lists.succeeded == calls)
        verdict.record(
            f"S11 at {latency} s a reply",
            measured=f"{lists.succeeded:,} succeed, {100 * lists.refused_late:.2f} % refused",
            target=f"< 2 % after the first {WARM_UP}",
            met=lists.refused_late < 0.02,
            ours=100 * lists.refused_late,
            unit="%",
        )
    for latency in (0.0, *LATENCIES):
        paced = limited_by_rate(latency, creates)
        _row(f"{RATE:g} a second", latency, paced)
        # The server lets a burst of one second's requests through, which is not part of the rate.
        rate = (creates - RATE) / paced.seconds
        verdict.record(
            f"creates at {latency} s a reply",
            measured=f"{paced.succeeded} succeed, {paced.backups} backups, {rate:.1f} a second",
            target=f">= {0.85 * RATE:g}",
            met=rate >= 0.85 * RATE,
            ours=rate,
            unit="a second",
        )
        verdict.check("each backup made once", right=paced.succeeded == paced.backups == creates)
