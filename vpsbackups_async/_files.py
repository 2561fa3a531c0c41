"""Writes files that others read at any time."""

import os
import secrets
import stat
from os import PathLike
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(file: str | PathLike[str], data: bytes) -> None:
    """Write the file in one step: a reader sees the whole old one or the whole new one.

    The file keeps its permissions. A symbolic link stays, and its target is replaced. What is there
    and is no regular file, such as a device or a pipe, is written into. Raises `OSError` with the
    name `file` if that fails; a regular file then stays as it was.
    """
    try:
        there = _stat(Path(file))
        if there is None or stat.S_ISREG(there.st_mode):
            _replace(Path(os.path.realpath(file)), data, there)
        else:
            Path(file).write_bytes(data)
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, os.strerror(number), os.fspath(file)) from error


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _replace(file: Path, data: bytes, there: os.stat_result | None) -> None:
    # A short name, as that of the file may have the greatest length already.
    new = file.parent / f".vpsbackups-{secrets.token_hex(8)}"
    try:
        with new.open("xb") as out:
            out.write(data)
        if there is not None:
            new.chmod(stat.S_IMODE(there.st_mode))
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
