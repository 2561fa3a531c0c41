"""What to do about servers that are not ok."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from vpsbackups_async.audit.coverage import ServerCoverage, State

__all__ = ["advice"]

_IN_A_COMMAND: Final = 20
"""The most servers that a command names."""

_ADVICE: Final[dict[State, tuple[str, str]]] = {
    State.NEVER: (
        "No backup of these servers ever completed. Make one:",
        "vpsbackups create --wait {ids}",
    ),
    State.FAILING: (
        "The newest attempt failed, and the newest good backup is too old. Find out why, then:",
        "vpsbackups create --wait {ids}",
    ),
    State.STUCK: (
        "A backup is in progress for too long, and may block others. If support calls it dead:",
        "vpsbackups delete {refs}",
    ),
    State.STALE: (
        "The newest good backup is too old, and none failed since: check what is to start backups.",
        "vpsbackups create --wait {ids}",
    ),
    State.UNKNOWN: (
        "It could not be told. Check that the servers exist and the token may read them, then:",
        "vpsbackups audit --rpo {rpo} {ids}",
    ),
    State.RUNNING: (
        "The newest good backup is too old, but another one runs. When it has ended:",
        "vpsbackups audit --rpo {rpo} {ids}",
    ),
}


def advice(state: State, servers: Sequence[ServerCoverage], rpo: timedelta) -> tuple[str, str, int]:
    """What to do about servers in this state, the command for that, and how many it names."""
    text, command = _ADVICE[state]
    named = servers[:_IN_A_COMMAND]
    minutes = max(1, round(rpo / timedelta(minutes=1)))
    ready = command.format(
        ids=" ".join(str(one.server_id) for one in named),
        refs=" ".join(f"{number}:{one.server_id}" for one in named for number in one.stuck),
        rpo=f"{minutes}m" if minutes % 60 else f"{minutes // 60}h",
    )
    return text, ready, len(named)
