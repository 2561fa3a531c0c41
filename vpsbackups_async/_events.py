"""The names of `events`, for what emits them: that module is loaded once one of them is used.

While nobody listens no event is made, and its classes take long to make.
"""

from typing import TYPE_CHECKING

from vpsbackups_async._lazy import on_first_use

if TYPE_CHECKING:
    from vpsbackups_async.events import (
        AttemptEnded,
        BackupCompleted,
        CallHeld,
        CreateEnded,
        CreateSettled,
        Event,
        GateClosed,
        GateOpened,
        OnEvent,
        RetryScheduled,
        WaitPolled,
        emitter,
    )

__all__ = [
    "AttemptEnded",
    "BackupCompleted",
    "CallHeld",
    "CreateEnded",
    "CreateSettled",
    "Event",
    "GateClosed",
    "GateOpened",
    "OnEvent",
    "RetryScheduled",
    "WaitPolled",
    "emitter",
]

if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, {"vpsbackups_async.events": __all__})
