"""Ids of servers and backups from arguments, a file or standard input."""

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import NothingToDo, UsageError
from vpsbackups_async.cli.text import safe
from vpsbackups_async.models import BackupRef

__all__ = [
    "BackupsFrom",
    "backup_refs",
    "one_ref",
    "one_server",
    "server_ids",
    "source_name",
    "written",
]

BackupsFrom = Annotated[
    str | None,
    Parameter(
        "--from",
        metavar="FILE",
        allow_leading_hyphen=True,
        help="each line begins with an ID, or ID:SERVER; - is stdin",
    ),
]

_ID: Final = re.compile(r"0*[1-9][0-9]{0,17}")
_REF: Final = re.compile(r"(0*[1-9][0-9]{0,17})(?::(0*[1-9][0-9]{0,17}))?")


def written(ref: BackupRef) -> str:
    """A ref as the command line takes it: `502:12345`, or `502` if the server is not known."""
    return str(ref.id) if ref.server_id is None else f"{ref.id}:{ref.server_id}"


def one_server(text: str, where: str = "") -> int:
    """The id of a server from a text. `where` begins the message of the `UsageError` it raises."""
    if not _ID.fullmatch(text):
        wanted = "a positive number"
        if text.isdecimal() and text.strip("0"):
            wanted += " of 18 digits at most"
        raise UsageError(f"{where}{_shown(text)} is not the id of a server, {wanted}")
    return int(text)


def one_ref(text: str, where: str = "") -> BackupRef:
    """A ref from `ID` or `ID:SERVER`. `where` begins the message of the `UsageError` it raises."""
    found = _REF.fullmatch(text)
    if not found:
        raise UsageError(f"{where}{_shown(text)} is no backup: give ID or ID:SERVER, two numbers")
    return BackupRef(int(found[1]), int(found[2]) if found[2] else None)


def server_ids(given: Iterable[str], source: str | None, *, may_be_none: bool = False) -> list[int]:
    """The ids in order and without repetition: those given, then every word of the source.

    `source` is the path of a file, or `-` for standard input. Raises `UsageError` for a word that
    is not an id, and `NothingToDo` for a source without ids, which must not pass for no filter,
    unless there `may_be_none`.
    """
    ids = [one_server(text) for text in given]
    if source is not None:
        for where, words in _lines(source):
            ids += [one_server(word, where) for word in words]
        if not ids and not may_be_none:
            raise NothingToDo(f"{source_name(source)} names no server: nothing to do")
    return list(dict.fromkeys(ids))


def backup_refs(given: Iterable[str], source: str | None) -> list[BackupRef]:
    """The refs in order and without repetition: those given, then those of the source.

    One without its server is left out beside one of the same id that has it.
    `source` is the path of a file, or `-` for standard input. A line begins with an id, or with one
    or more pairs of a backup and its server; what follows a word that is neither is ignored, so
    that the output of `create` and `list` can be the input. Raises `UsageError` for any other line.
    """
    refs = [one_ref(text) for text in given]
    if source is not None:
        for where, words in _lines(source):
            refs += _refs_of(words, where)
    placed = {ref.id for ref in refs if ref.server_id is not None}
    return [ref for ref in dict.fromkeys(refs) if ref.server_id is not None or ref.id not in placed]


def _refs_of(words: list[str], where: str) -> list[BackupRef]:
    """The refs that a line begins with.

    A number beside an id may be the id of its server, as in a row of a table or of CSV, or another
    backup; nothing tells which. Nor is a row of CSV read as what it is: a description in it may go
    on in the next line, and begin there with a number.
    """
    refs = [one_ref(words[0], where)]
    refs += [one_ref(word) for word in takewhile(_REF.fullmatch, words[1:])]
    if len(refs) > 1 and any(ref.server_id is None for ref in refs):
        shown = _shown(" ".join(map(written, refs)))
        raise UsageError(
            f"{where}{shown} may be a backup and its server, or several backups: "
            "give ID:SERVER, or one ID a line (vpsbackups list, piped, writes ID:SERVER)"
        )
    return refs


def _lines(source: str) -> Iterator[tuple[str, list[str]]]:
    """The place and the words of each line, without comments and empty lines."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8", "replace")
        text = text.removeprefix("\ufeff")  # the byte order mark that editors on Windows write
    except OSError as error:
        raise UsageError(f"cannot read {_shown(source)}: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if words:
            yield f"{source_name(source)}, line {number}: ", words


def source_name(source: str) -> str:
    """The path of a source that ids are read from, safe for a terminal, or `standard input`."""
    return "standard input" if source == "-" else safe(source)


def _shown(text: str) -> str:
    return f"'{safe(text if len(text) <= 40 else text[:39] + '…')}'"
