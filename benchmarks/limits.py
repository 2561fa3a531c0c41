"""S11 and the pace of creates: how the default limiter settles at what a server bears.

Both run against the fake server, on virtual time: seconds are the server's, and cost none here.
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
    """What came of it: how many succeeded, how many requests it took, in how many seconds."""

    succeeded: int
    requests: int
    refused: int
    refused_late: float
    seconds: float
    limit: int | None
    backups: int


def at_once(latency: float, count: int) -> Run:
    """So many lists at a server that allows five at once."""

    async def work() -> Run:
        fake = FakeVPS(servers=1, backups=1, max_concurrent=AT_ONCE, faults=[Latency(latency)])
        async with (
            fake,
            BackupsClient(fake.token, base_url=fake.url, timeouts=_NO_END) as client,
        ):
            calls = [client.list().first() for _ in range(count)]
            return await _measured(fake, client, calls)

    return on_virtual_time(work)


def a_second(latency: float, count: int) -> Run:
    """Creates on so many servers at a server that allows thirty requests a second."""

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
    """Both limits, at each latency."""
    print(
        f"{'the server allows':22}{'latency':>9}{'succeeded':>11}{'requests':>10}{'429s':>6}"
        f"{'of later':>11}{'seconds':>9}{'limit':>7}"
    )
    calls, creates = verdict.size(CALLS, 300), verdict.size(CREATES, 60)
    for latency in LATENCIES:
        settled = at_once(latency, calls)
        _row(f"{AT_ONCE} at once", latency, settled)
        verdict.check("each list succeeded", right=settled.succeeded == calls)
        verdict.hold(
            f"S11 at {latency} s a reply",
            measured=f"{settled.succeeded:,} succeed, {100 * settled.refused_late:.2f} % refused",
            target=f"< 2 % after the first {WARM_UP}",
            met=settled.refused_late < 0.02,
            ours=100 * settled.refused_late,
            unit="%",
        )
    for latency in (0.0, *LATENCIES):
        paced = a_second(latency, creates)
        _row(f"{RATE:g} a second", latency, paced)
        # Without the second's worth that the server lets through before it counts.
        rate = (creates - RATE) / paced.seconds
        verdict.hold(
            f"creates at {latency} s a reply",
            measured=f"{paced.succeeded} succeed, {paced.backups} backups, {rate:.1f} a second",
            target=f">= {0.85 * RATE:g}",
            met=rate >= 0.85 * RATE,
            ours=rate,
            unit="a second",
        )
        verdict.check("each backup made once", right=paced.succeeded == paced.backups == creates)
