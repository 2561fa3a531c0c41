"""What the calls of a `DurableFleet` may be given, and what that asks of a run."""

from datetime import timedelta
from typing import Final

from vpsbackups_async._checks import check_int
from vpsbackups_async.durable.values import BackupTask, EnsureTask, RotateTask, Task
from vpsbackups_async.models import Server
from vpsbackups_async.retention import Retention

__all__ = ["check_new_run", "check_run", "id_of", "task_of"]

_HIGHEST_ID: Final = 2**63 - 1
"""That a database keeps."""
_LONGEST_NAME: Final = 200


def id_of(server: int | Server) -> int:
    """The id of a server; raises `ValueError` for one that cannot be."""
    found = check_int("server_id", server.id if isinstance(server, Server) else server)
    if found > _HIGHEST_ID:
        raise ValueError(f"server_id must be at most {_HIGHEST_ID}, not {found}")
    return found


def check_run(run: object) -> str:
    """The name of a run that may be there; raises `ValueError` for what no run is called."""
    if not isinstance(run, str) or not run.strip() or run != run.strip() or not run.isprintable():
        raise ValueError(f"a run is named by a text without spaces around it, not {run!r}")
    return run


def check_new_run(name: object) -> None:
    """Raise `ValueError` for what a new run cannot be called."""
    run = check_run(name)
    if len(run) > _LONGEST_NAME:
        raise ValueError(
            f"the name of a run has at most {_LONGEST_NAME} characters, not {len(run)}"
        )


def task_of(
    description: str | None,
    job: str | None,
    ensure: timedelta | None,
    rotate: Retention | None,
    *,
    make_room: bool,
) -> Task:
    """What the arguments of `submit` ask for; raises `ValueError` for what cannot be."""
    if ensure is not None and rotate is not None:
        raise ValueError("a run either ensures or rotates: give one of ensure and rotate")
    if job is not None and (ensure is not None or rotate is not None):
        raise ValueError("job is for plain backups: a retention has its own, and ensure none")
    if make_room and rotate is None:
        raise ValueError("make_room needs rotate")
    if rotate is not None and not (fit := rotate.fit(())).fits:
        raise ValueError(f"each rotation would be refused: {fit}")
    if ensure is not None:
        return EnsureTask(ensure, description)
    if rotate is not None:
        return RotateTask(rotate, description, make_room)
    return BackupTask(description, job)
