"""`--not-made-to`: the servers that certainly got no backup, to be run again."""

import contextlib
import errno
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.errors import (
    ApiError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    DeadlineExceededError,
    InvalidResponseError,
    NotAttemptedError,
    PaginationError,
    TransportError,
)

__all__ = ["NotMade", "NotMadeTo", "is_certain", "replace_named"]

_TELLING: Final = (
    ApiError,
    TransportError,
    DeadlineExceededError,
    InvalidResponseError,
    NotAttemptedError,
    ConfigurationError,
    PaginationError,  # of a list that is read before anything is sent
)

NotMadeTo = Annotated[
    Path | None,
    Parameter(metavar="FILE", help="the servers that certainly got none; always replaced"),
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
    """The file, which each run replaces, so that what an earlier one left is not run again.

    It is empty from the start, also where the run then fails at once; only if it is the `source`
    that the servers are read from, it keeps them until the first is begun. If the block of this
    context manager ends before that, the `servers`, as far as they are known, are written.

    Raises `UsageError` if it cannot be written.
    """

    def __init__(self, path: Path, source: str | None) -> None:
        self.servers: Collection[int] | None = None
        self._path = path
        try:
            keeps = source is not None and _is_same(path, source)
            self._file = path.open("r+b" if keeps else "wb", buffering=0)
        except OSError as error:
            raise UsageError(f"--not-made-to: cannot write {path}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._file.closed and self.servers is not None:
            with contextlib.suppress(OSError):  # what ended the block is told
                self.write(self.servers)
        self._file.close()

    def begin(self) -> None:
        """Note that servers are begun from now on: none of them is certain before the end."""
        self._empty()

    def write(self, server_ids: Iterable[int]) -> None:
        """Write these ids, a line each, and close the file.

        Raises `OSError` if not all of them can be written; it is empty then, as a part of an id
        would be another id.
        """
        data = "".join(f"{server_id}\n" for server_id in server_ids).encode()
        with self._file as file:
            self._empty()
            try:
                number = errno.ENOSPC if file.write(data) < len(data) else 0
            except OSError as error:
                number = error.errno or errno.EIO
            if number:
                self._empty()
                raise OSError(number, os.strerror(number), str(self._path))

    def _empty(self) -> None:
        with contextlib.suppress(OSError):  # a device or pipe has no length
            self._file.seek(0)
            self._file.truncate()


def _is_same(path: Path, source: str) -> bool:
    """Whether the servers are read from this very file."""
    try:
        read = os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
        return os.path.samestat(read, path.stat())
    except (OSError, ValueError):  # one is not there, or standard input is no file
        return False


def replace_named(arguments: Sequence[str]) -> None:
    """Empty the file that arguments name which cannot be understood, as a shell's `>` does."""
    if arguments[0] != "create":
        return
    path, source = _named("--not-made-to", arguments), _named("--servers-from", arguments)
    if path is not None:
        with contextlib.suppress(UsageError), NotMade(Path(path), source):
            pass


def _named(option: str, arguments: Sequence[str]) -> str | None:
    """The last value of the option, None if it has none."""
    found = None
    for argument, following in zip_longest(arguments, arguments[1:]):
        name, is_joined, value = argument.partition("=")
        if name == option:
            found = value if is_joined else following
            if found and found.startswith("-") and found != "-":
                found = None  # an option: the value was forgotten
    return found
