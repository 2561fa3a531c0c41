"""What `--ndjson` writes: one JSON object a line for each item of a command."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from typing import Annotated, Any, Final, NamedTuple

from cyclopts import Parameter

from vpsbackups_async.cli.ends import explain
from vpsbackups_async.cli.options import Flag
from vpsbackups_async.cli.rows import json_line
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.client import ServerStream
from vpsbackups_async.models import Backup, BackupRef

__all__ = [
    "INTERRUPTED",
    "NOT_BEGUN",
    "AsOutcomes",
    "Key",
    "NoBackup",
    "Outcomes",
    "Taken",
    "all_taken",
]


class NoBackup(NamedTuple):
    """Stands for a backup that is not known, of this server if that is known."""

    server_id: int | None


Key = int | BackupRef | NoBackup
"""The id of a server, or a backup."""

INTERRUPTED: Final = ("Interrupted", "the command was interrupted; the server may go on with it")
NOT_BEGUN: Final = ("NotAttemptedError", "not attempted: the command was interrupted")
"""The types and texts of the errors of what an interruption left undone."""

AsOutcomes = Annotated[Flag, Parameter("--ndjson", help="a JSON object for each, a line each")]


class Outcomes:
    """Writes an object for each item to standard output.

    `key` is the id of the server or of the backup, null where none is known; `server_id`
    that of the server, null if it is not known; `ok` whether it succeeded; `backup` what is known
    of the backup, as the API writes it, else null; `error` null, or an object with the `type` and
    `text` of what failed; `seconds` is how long the item took, 0 if it was not begun.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began: dict[Key, float] = {}
        self._expected: dict[BackupRef, Backup] = {}

    def expect(self, backups: Iterable[Backup]) -> None:
        """Note the backups that are to be worked on, for `write_rest`."""
        self._expected = {backup.ref: backup for backup in backups}

    def write_rest(self) -> None:
        """After an interruption, write an object for each expected backup that has none yet.

        What cannot be written is left out: the reader may be gone.
        """
        with suppress(OSError):
            for key, backup in list(self._expected.items()):
                failed = INTERRUPTED if key in self._began else NOT_BEGUN
                self.write_failed_as(key, backup, failed)

    def begin(self, key: Key, ago: float = 0.0) -> None:
        """Note that work on the item began, so many seconds ago."""
        self._began.setdefault(key, time.monotonic() - ago)

    def write(
        self,
        key: Key,
        backup: Backup | None = None,
        error: BaseException | None = None,
        **more: Any,
    ) -> None:
        """Write how an item ended. Raises `OSError` if that cannot be written."""
        failed = None if error is None else (type(error).__name__, explain(error))
        self.write_failed_as(key, backup, failed, **more)

    def write_failed_as(
        self, key: Key, backup: Backup | None, failed: tuple[str, str] | None, **more: Any
    ) -> None:
        """Write how an item ended: with this type and text of an error, or well."""
        now = time.monotonic()
        if isinstance(key, BackupRef):
            self._expected.pop(key, None)
        server_id = key if isinstance(key, int) else key.server_id
        head = {
            "key": None if isinstance(key, NoBackup) else getattr(key, "id", key),
            "server_id": backup.server.id if backup is not None else server_id,
            "ok": failed is None,
        }
        tail = {
            "error": failed and {"type": failed[0], "text": failed[1]},
            "seconds": round(now - self._began.pop(key, now), 3),
            **more,
        }
        shown = b"null" if backup is None else json_line(backup)
        parts = (json.dumps(head).encode()[:-1], shown, json.dumps(tail).encode()[1:])
        self._screen.raw(b'%b, "backup": %b, %b\n' % parts)


# --- When an item was begun ----------------------------------------------------------------------


class Taken:
    """The ids, each told to `begin` when it is taken to be worked on; they keep their number."""

    def __init__(self, ids: list[int], begin: Callable[[int], object]) -> None:
        self._ids = ids
        self._begin = begin

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        for server_id in self._ids:
            self._begin(server_id)
            yield server_id


async def all_taken(servers: ServerStream, begin: Callable[[int], object]) -> AsyncGenerator[int]:
    """The ids of these servers, all of them, each told to `begin` when it is taken."""
    async with aclosing(aiter(servers.whole())) as found:
        async for server in found:
            begin(server.id)
            yield server.id
