"""Runs over many servers that survive whatever dies meanwhile; start from `DurableFleet`.

Needs the `durable` extra: `pip install 'vpsbackups-async[durable]'`.
"""

try:
    import dbos as _dbos  # noqa: F401
    import filelock as _filelock  # noqa: F401
    import platformdirs as _platformdirs  # noqa: F401
except ImportError as _missing:
    raise ImportError(
        "vpsbackups_async.durable needs the durable extra: pip install 'vpsbackups-async[durable]'"
    ) from _missing

from vpsbackups_async.durable.runs import DurableFleet
from vpsbackups_async.durable.schedules import Schedule
from vpsbackups_async.durable.values import (
    BackupTask,
    EnsureTask,
    ItemState,
    Limits,
    RotateTask,
    RunInfo,
    RunOutcome,
    RunProgress,
)

__all__ = [
    "BackupTask",
    "DurableFleet",
    "EnsureTask",
    "ItemState",
    "Limits",
    "RotateTask",
    "RunInfo",
    "RunOutcome",
    "RunProgress",
    "Schedule",
]
