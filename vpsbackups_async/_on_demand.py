"""What `BackupsClient` needs for many servers and for pruning, loaded once it is used."""

from typing import TYPE_CHECKING

from vpsbackups_async._lazy import on_first_use

if TYPE_CHECKING:
    from vpsbackups_async._lists.sources import Servers, check_servers, read_servers
    from vpsbackups_async._pruning.plan import Caps, PrunePlan
    from vpsbackups_async._pruning.planner import Planner
    from vpsbackups_async._pruning.pruner import Delete, Pruner
    from vpsbackups_async._pruning.rotation import RotateOptions, Rotation, Verify
    from vpsbackups_async._pruning.rotator import Rotator
    from vpsbackups_async.fleet import Fleet
    from vpsbackups_async.retention import Retention

__all__ = [
    "Caps",
    "Delete",
    "Fleet",
    "Planner",
    "PrunePlan",
    "Pruner",
    "Retention",
    "RotateOptions",
    "Rotation",
    "Rotator",
    "Servers",
    "Verify",
    "check_servers",
    "read_servers",
]

if not TYPE_CHECKING:
    __getattr__ = on_first_use(
        __name__,
        {
            "vpsbackups_async._lists.sources": ("Servers", "check_servers", "read_servers"),
            "vpsbackups_async._pruning.plan": ("Caps", "PrunePlan"),
            "vpsbackups_async._pruning.planner": ("Planner",),
            "vpsbackups_async._pruning.pruner": ("Delete", "Pruner"),
            "vpsbackups_async._pruning.rotation": ("RotateOptions", "Rotation", "Verify"),
            "vpsbackups_async._pruning.rotator": ("Rotator",),
            "vpsbackups_async.fleet": ("Fleet",),
            "vpsbackups_async.retention": ("Retention",),
        },
    )
