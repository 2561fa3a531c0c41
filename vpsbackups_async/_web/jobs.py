"""Work that goes on after whoever began it has gone: kept, logged when it ends, ended at close."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from vpsbackups_async.errors import ConfigurationError, VPSBackupsError
from vpsbackups_async.models import Backup

logger = logging.getLogger("vpsbackups_async")

T = TypeVar("T")

_LAST_WORDS: Final = 1.0
"""Seconds that jobs get at close to come out with what just ended them, before a cancellation."""


class Jobs:
    """The jobs of one client."""

    def __init__(self) -> None:
        # The event loop itself keeps no more than a weak reference to a task.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def begin(self, work: Coroutine[Any, Any, T], name: str | None) -> asyncio.Task[T]:
        """The task that does the work; raises `ConfigurationError` once closed."""
        if self._closed:
            raise ConfigurationError("this client is being closed: it begins no background job")
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
            logger.info("background job %s is done%s", name, _with(task.result()))
        elif isinstance(error, VPSBackupsError):
            logger.warning("background job %s failed: %s", name, error)
        else:
            logger.error("background job %s failed", name, exc_info=error)

    async def close(self) -> None:
        """Cancel the jobs that do not end by themselves in a moment, and wait until all ended."""
        self._closed = True
        # A job may be what closes the client.
        tasks = self._tasks - {asyncio.current_task()}
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=_LAST_WORDS)
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _with(result: object) -> str:
    if not isinstance(result, Backup):
        return ""
    return f": backup {result.id} of server {result.server.id}, {result.status}"
