"""`--not-made-to`: the servers that certainly got no backup, to be run again."""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Collection, Iterable, Sequence
from io import FileIO
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError, end_of
from vpsbackups_async.cli.options import FILE
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import safe
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
    FILE,
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

    It is not there from the start of a run, also of one that fails at once, until the end. An empty
    file means that no server is left: so where the servers are not known there is none, which is
    said, nor where the process is killed. Only if it is the `source` that the servers are read
    from, it is kept until the first is begun, and then as `FILE.begun` until the end: a run that is
    killed does not lose its servers, of which some may have got a backup.

    If the block of this context manager ends before the servers are begun, the `servers`, as far as
    they are known, are written. What is no regular file, a pipe for example, is just written to.

    Raises `UsageError` if the file cannot be replaced, or an earlier run was killed.
    """

    def __init__(self, path: Path, source: str | None) -> None:
        self.servers: Collection[int] | None = None
        self._is_regular = _is_regular(path)
        self._path = path.resolve() if self._is_regular else path
        self._aside = self._path.with_name(f"{self._path.name}.begun")
        self._keeps = source is not None and self._is_regular and _is_same(path, source)
        self._was_there = False
        if source == str(path) and not path.exists() and self._aside.exists():
            raise UsageError(
                f"an earlier run was killed, and left its servers in {self._aside}; some may have "
                "got a backup: --servers-from that file, with --unless-newer-than TIME"
            )
        try:
            self._file = self._open()
        except OSError as error:
            raise UsageError(f"--not-made-to: cannot write {path}: {error.strerror}") from None

    def _open(self) -> FileIO:
        """The file to write to: one beside it that will replace it, if it is a regular one."""
        if not self._is_regular:
            return self._path.open("wb", buffering=0)
        file = self._path.with_name(f".{self._path.name}.new").open("wb", buffering=0)
        if not self._keeps:
            try:
                self._path.unlink()
                self._was_there = True
            except FileNotFoundError:
                pass
            except OSError:
                self._discard(file)
                raise
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file.closed:
            return
        if self.servers is not None:
            with contextlib.suppress(OSError):  # what ended the block is told
                self.write(self.servers)
            return
        self._discard(self._file)
        if self._is_regular and not self._keeps:
            self._say_unknown(error)

    def begin(self) -> None:
        """Note that servers are begun from now on: none of them is certain before the end."""
        if self._keeps:
            self._path.replace(self._aside)

    def write(self, server_ids: Iterable[int]) -> None:
        """Write these ids, a line each, and close the file.

        Raises `OSError` if not all of them can be written; there is no file then, as a part of an
        id would be another id.
        """
        data = "".join(f"{server_id}\n" for server_id in server_ids).encode()
        try:
            number = errno.ENOSPC if self._file.write(data) < len(data) else 0
            if self._is_regular and not number:
                Path(self._file.name).replace(self._path)
                if self._keeps:
                    self._aside.unlink(missing_ok=True)
        except OSError as error:
            number = error.errno or errno.EIO
        if number:
            self._discard(self._file)
            raise OSError(number, os.strerror(number), str(self._path))
        self._file.close()

    def _discard(self, file: FileIO) -> None:
        """Close the file, and remove it if it was to replace another one."""
        file.close()
        if self._is_regular:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()

    def _say_unknown(self, error: BaseException | None) -> None:
        """Say that there is no file, for it is not known which servers it should have."""
        how = "removed" if self._was_there else "not written"
        said = f"it is not known which servers are left: {safe(str(self._path))} was {how}"
        if isinstance(error, KeyboardInterrupt):
            said = f"{end_of(error)}: no backup was started, and {said}"
        Screen().note(said, "red")


def _is_regular(path: Path) -> bool:
    """Whether it is a regular file, or none yet, which another file can replace."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def _is_same(path: Path, source: str) -> bool:
    """Whether the servers are read from this very file."""
    try:
        read = os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
        return os.path.samestat(read, path.stat())
    except (OSError, ValueError):  # one is not there, or standard input is no file
        return False


def replace_named(arguments: Sequence[str]) -> None:
    """Remove the file that arguments name which cannot be understood; see `NotMade`."""
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
