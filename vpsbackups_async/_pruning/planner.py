"""Makes plans: reads the manual backups of many servers completely, by the cheaper way."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Final

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async._creating.looks import Looks
from vpsbackups_async._lists.estimate import FEW_SERVERS, count_pages
from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, backups_query
from vpsbackups_async._lists.walk import Walk, read_complete
from vpsbackups_async._pruning.looks import Held, earlier, look_at
from vpsbackups_async._pruning.plan import PrunePlan, ServerPlan, plan_of
from vpsbackups_async._wire import Response, date_of
from vpsbackups_async.errors import AuthenticationError, VPSBackupsError
from vpsbackups_async.models import Backup, BackupType
from vpsbackups_async.retention import Retention

__all__ = ["Planner"]

_CONCURRENCY: Final = 64
_PAGES_AHEAD: Final = 16


class Planner:
    """Plans for servers, by a sweep through the whole list or by each server's list."""

    def __init__(self, lists: Lists, looks: Looks) -> None:
        self._lists = lists
        self._looks = looks

    async def plan(self, server_ids: Sequence[int], retention: Retention) -> PrunePlan:
        """The plan for these servers; raises `AuthenticationError` if the token is refused.

        Another failure of a server's list is the problem of its plan.
        """
        made_at = datetime.now(UTC)
        swept = await self._swept(server_ids)
        if swept is None:
            plans = await self._by_server(server_ids, retention)
        else:
            by_server: dict[int, list[Backup]] = defaultdict(list)
            for backup in swept.backups:
                by_server[backup.server.id].append(backup)
            plans = {
                server_id: plan_of(
                    server_id, retention.decide(by_server[server_id], swept.now), retention
                )
                for server_id in server_ids
            }
        return PrunePlan(retention, made_at, tuple(plans[server_id] for server_id in server_ids))

    async def _by_server(
        self, server_ids: Sequence[int], retention: Retention
    ) -> dict[int, ServerPlan]:
        plans: dict[int, ServerPlan] = {}
        reading = fan_out(partial(look_at, self._looks), server_ids, concurrency=_CONCURRENCY)
        async with aclosing(reading) as outcomes:
            async for outcome in outcomes:
                server_id, error = outcome.key, outcome.error
                if isinstance(error, AuthenticationError):
                    raise error
                if error is None:
                    decisions = retention.decide(outcome.value.backups, outcome.value.now)
                    plans[server_id] = plan_of(server_id, decisions, retention)
                else:
                    plans[server_id] = ServerPlan(
                        server_id, problem=_said(error), problem_type=type(error).__name__
                    )
        return plans

    async def _swept(self, server_ids: Sequence[int]) -> Held | None:
        """The manual backups of all servers; None where asking each server is to be preferred."""
        if len(server_ids) <= FEW_SERVERS:
            return None
        server_time: datetime | None = None

        def note_time(response: Response) -> None:
            nonlocal server_time
            server_time = date_of(response.headers)

        def open_walk(prefetch: int = _PAGES_AHEAD) -> Walk[Backup]:
            query = backups_query(None, BackupType.MANUAL, PAGE_SIZE)
            return self._lists.open(query, prefetch=prefetch, on_response=note_time)

        try:
            if not 0 < await count_pages(open_walk(0)) < len(server_ids):
                return None
            sweep = await read_complete(open_walk)
        except AuthenticationError:
            raise
        except VPSBackupsError:
            return None
        return Held(sweep.items, earlier(server_time)) if sweep.complete else None


def _said(error: Exception) -> str:
    return error.describe() if isinstance(error, VPSBackupsError) else str(error)
