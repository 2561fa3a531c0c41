"""`--not-made-to`: the servers that certainly got no backup, to be run again."""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.errors import (
    ApiError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    DeadlineExceededError,
    NotAttemptedError,
    PaginationError,
    TransportError,
)

__all__ = ["NotMade", "NotMadeTo", "is_certain"]

_TELLING: Final = (
    ApiError,
    TransportError,
    DeadlineExceededError,
    NotAttemptedError,
    ConfigurationError,
    PaginationError,  # of a list that is read before anything is sent
)

NotMadeTo = Annotated[
    Path | None,
    Parameter(metavar="FILE", help="write the servers there that certainly got none"),
]


def is_certain(error: BaseException) -> bool:
    """Whether a create that failed so has certainly made no backup: refused, or never sent.

    "Busy" or "full" is no proof where it answers a later attempt, for it may be said because of
    the very backup that an earlier one made.
    """
    if isinstance(error, BadRequestError | ConflictError) and error.attempts > 1:
        return False
    return isinstance(error, _TELLING) and not error.in_doubt


class NotMade:
    """The file, empty from the start, so that what it has from an earlier run is not run again.

    Raises `UsageError` if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise UsageError(f"--not-made-to: cannot write {path}: {error.strerror}") from None

    def write(self, server_ids: Iterable[int]) -> None:
        """Write these ids, a line each, and close the file.

        Raises `OSError` if not all of them can be written; it is empty then, as a part of an id
        would be another id.
        """
        data = "".join(f"{server_id}\n" for server_id in server_ids).encode()
        with self._file as file:
            try:
                number = errno.ENOSPC if file.write(data) < len(data) else 0
            except OSError as error:
                number = error.errno or errno.EIO
            if number:
                with contextlib.suppress(OSError):  # a device or pipe has no length
                    file.truncate(0)
                raise OSError(number, os.strerror(number), str(self._path))
