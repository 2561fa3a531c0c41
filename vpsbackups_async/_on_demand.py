"""What `BackupsClient` needs for more than lists, loaded once it is used."""

from typing import TYPE_CHECKING

from vpsbackups_async._lazy import on_first_use

if TYPE_CHECKING:
    from vpsbackups_async._creating.creates import Creates
    from vpsbackups_async._creating.creation import check_if_running
    from vpsbackups_async._creating.creator import Creator
    from vpsbackups_async._creating.ensuring import windows_of
    from vpsbackups_async._creating.known import KnownBackups
    from vpsbackups_async._creating.looks import Looks
    from vpsbackups_async._lists.finder import Finder
    from vpsbackups_async._lists.sources import Servers, check_servers, read_servers
    from vpsbackups_async._pruning.plan import Caps, PrunePlan
    from vpsbackups_async._pruning.planner import Planner
    from vpsbackups_async._pruning.pruner import Delete, Pruner
    from vpsbackups_async._pruning.rotation import RotateOptions, Rotation, Verify
    from vpsbackups_async._pruning.rotator import Rotator
    from vpsbackups_async._waiting.hub import WaitHub
    from vpsbackups_async._waiting.waiter import Waiter, shown_status
    from vpsbackups_async._web.asgi import ASGIApp, with_lifespan
    from vpsbackups_async._web.jobs import Jobs
    from vpsbackups_async.fleet import Fleet
    from vpsbackups_async.retention import Retention

__all__ = [
    "ASGIApp",
    "Caps",
    "Creates",
    "Creator",
    "Delete",
    "Finder",
    "Fleet",
    "Jobs",
    "KnownBackups",
    "Looks",
    "Planner",
    "PrunePlan",
    "Pruner",
    "Retention",
    "RotateOptions",
    "Rotation",
    "Rotator",
    "Servers",
    "Verify",
    "WaitHub",
    "Waiter",
    "check_if_running",
    "check_servers",
    "read_servers",
    "shown_status",
    "windows_of",
    "with_lifespan",
]

if not TYPE_CHECKING:
    __getattr__ = on_first_use(
        __name__,
        {
            "vpsbackups_async._creating.creates": ("Creates",),
            "vpsbackups_async._creating.creation": ("check_if_running",),
            "vpsbackups_async._creating.creator": ("Creator",),
            "vpsbackups_async._creating.ensuring": ("windows_of",),
            "vpsbackups_async._creating.known": ("KnownBackups",),
            "vpsbackups_async._creating.looks": ("Looks",),
            "vpsbackups_async._lists.finder": ("Finder",),
            "vpsbackups_async._lists.sources": ("Servers", "check_servers", "read_servers"),
            "vpsbackups_async._pruning.plan": ("Caps", "PrunePlan"),
            "vpsbackups_async._pruning.planner": ("Planner",),
            "vpsbackups_async._pruning.pruner": ("Delete", "Pruner"),
            "vpsbackups_async._pruning.rotation": ("RotateOptions", "Rotation", "Verify"),
            "vpsbackups_async._pruning.rotator": ("Rotator",),
            "vpsbackups_async._waiting.hub": ("WaitHub",),
            "vpsbackups_async._waiting.waiter": ("Waiter", "shown_status"),
            "vpsbackups_async._web.asgi": ("ASGIApp", "with_lifespan"),
            "vpsbackups_async._web.jobs": ("Jobs",),
            "vpsbackups_async.fleet": ("Fleet",),
            "vpsbackups_async.retention": ("Retention",),
        },
    )
