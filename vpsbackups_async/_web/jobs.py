"""Background jobs of a client: kept alive, logged when they end, and cancelled at close."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.models import Backup

logger = logging.getLogger("vpsbackups_async")

T = TypeVar("T")

_CLOSE_GRACE: Final = 1.0
"""Seconds that jobs get at close to end by themselves before they are cancelled.

The client ends its waits first, so that a job that waits can still fail with the backup's ref.
"""


class Jobs:
    """The background jobs of one client; `mask` masks the secrets in what they return."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask
        # The event loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T], name: str | None) -> asyncio.Task[T]:
        """Start a task that does the work."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        name = task.get_name()
        if task.cancelled():
            logger.warning("background job %s was cancelled", name)
            return
        error = task.exception()
        if error is None:
            shown = self._mask(_result_text(task.result()))
            logger.info("background job %s is done%s", name, shown)
        elif isinstance(error, VPSBackupsError):
            logger.warning("background job %s failed: %s", name, error)
        else:
            logger.error("background job %s failed", name, exc_info=error)

    async def close(self) -> None:
        """Cancel the jobs that do not end within a second, and wait until all have ended."""
        # A job may close the client itself, and must not wait for its own end.
        tasks = self._tasks - {asyncio.current_task()}
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=_CLOSE_GRACE)
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _result_text(result: object) -> str:
    """The backup that a job returned, for its log line; empty for any other result."""
    if not isinstance(result, Backup):
        return ""
    return f": backup {result.id} of server {result.server.id}, {result.status}"
