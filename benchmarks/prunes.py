"""A plan for pruning 5,000 servers with 10 manual backups each."""

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks._table import Verdict
from benchmarks.audits import measured_apart, planted, record_cost
from benchmarks.streams import peak_kib
from vpsbackups_async import BackupsClient, Retention

_SERVERS = 5_000
_POLICY = Retention(daily=2, weekly=3, job="nightly")


async def _plan(url: str, token: str, servers: int) -> dict[str, Any]:
    async with BackupsClient(token, base_url=url) as client:
        manual = await client.list(backup_type="manual", page_size=1).count()
        first, requests = peak_kib(), client.stats.requests
        cpu, wall = time.process_time(), time.perf_counter()
        plan = await client.plan_prune(range(1, servers + 1), _POLICY)
        measured = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "mb": (peak_kib() - first) * 1024 / 1e6,
            "requests": client.stats.requests - requests,
            "manual": manual,
        }
    decided = sum(len(one.decisions) for one in plan.servers)
    empty = {one.server_id for one in plan.servers if not one.decisions}
    never = {number for number, state in planted(servers).items() if state == "never"}
    problems = sum(bool(one.problem) for one in plan.servers)
    right = decided == manual and empty == never and not problems and bool(plan.deleted)
    return measured | {"right": right}


def run(verdict: Verdict) -> None:
    """Plan for a fake server in another process, from a new process."""
    servers = verdict.size(_SERVERS, 200)
    measured = measured_apart("benchmarks.prunes", servers)
    what = f"plan_prune of {servers:,} servers with {measured['manual']:,} manual backups"
    verdict.check("each backup decided about once", right=measured["right"])
    pages = -(-measured["manual"] // 100)
    verdict.check(
        "one request a page of 100, and one more", right=measured["requests"] == pages + 1
    )
    record_cost(verdict, what, measured, seconds=2)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_plan(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
