"""The options that every command has, and the types of options that several have."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from attrs import frozen
from cyclopts import Group, Parameter, Token

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.helping import OF_EVERY_COMMAND
from vpsbackups_async.cli.text import seconds_of

__all__ = [
    "A_TIME",
    "DEFAULTS",
    "FILE",
    "All",
    "Common",
    "Flag",
    "Ping",
    "Timeout",
    "check_all",
    "check_file",
    "duration_of",
    "timeout_seconds",
]

Flag = Annotated[bool, Parameter(negative=())]

All = Annotated[Flag, Parameter("--all", help="every server of the account")]

A_TIME: Final = "(30m, 24h, 2d)"
"""What the help of every option that takes a duration says of its form."""

Timeout = Annotated[
    str | None, Parameter(metavar="TIME", help=f"of each wait {A_TIME}; 1h if not given")
]

Ping = Annotated[
    str | None,
    Parameter(metavar="URL", help="told of start, success and failure (healthchecks.io)"),
]


def _file(kind: Any, tokens: Sequence[Token]) -> Path:  # noqa: ARG001  # part of the protocol
    [token] = tokens
    if not token.value.strip():  # `Path` would take it for the current folder
        raise UsageError(f"{token.keyword or 'the path'} is empty")
    return Path(token.value)


FILE: Final = Parameter(converter=_file)
"""Marks an argument that takes the path of a file or a folder."""

_GROUP = Group(OF_EVERY_COMMAND, sort_key=2)
_LONGEST: Final = timedelta(days=36_500)


@Parameter(name="*", group=_GROUP)
@frozen(kw_only=True)
class Common:
    """Where the API is, where the token is, and how much is written to standard error."""

    url: Annotated[str | None, Parameter(metavar="URL", help="the API, if not VPS_API_URL")] = None
    token_file: Annotated[
        Path | None, FILE, Parameter(metavar="FILE", help="holds the token, if not VPS_API_TOKEN")
    ] = None
    quiet: Annotated[Flag, Parameter(("--quiet", "-q"), help="no progress, no summary")] = False
    verbose: Annotated[Flag, Parameter(("--verbose", "-v"), help="what it took, at the end")] = (
        False
    )
    debug: Annotated[Flag, Parameter(help="the log of retries, and tracebacks")] = False


DEFAULTS = Common()


def check_all(*, all_servers: bool, named: bool) -> None:
    """Raise `UsageError` if servers are named beside `--all`."""
    if all_servers and named:
        raise UsageError("--all is every server: name none beside it")


def check_file(option: str, file: Path) -> None:
    """Raise `UsageError` if the file that an option names cannot be written where it is."""
    if file.is_dir():
        raise UsageError(f"{option} {str(file)!r}: it is a folder")
    if not Path(os.path.realpath(file)).parent.is_dir():
        raise UsageError(f"{option} {str(file)!r}: there is no such folder")


def timeout_seconds(given: str | None) -> float:
    """The seconds of a `Timeout`, 3600 if none is given; raises `UsageError`."""
    if given is None:
        return 3600.0
    return duration_of("--timeout", given, least=timedelta(0), alone=True).total_seconds()


def duration_of(
    option: str, text: str, *, least: timedelta = timedelta(seconds=1), alone: bool = False
) -> timedelta:
    """The duration of a text such as `90s`, `30m`, `24h`, `2d` or `1w`; raises `UsageError`.

    A number `alone` is seconds. Elsewhere one without a unit is refused: nobody knows whether 24 is
    hours or seconds.
    """
    seconds = seconds_of(text) if alone or text.strip()[-1:].isalpha() else None
    if seconds is not None and timedelta(seconds=min(seconds, 1e10)) < least:
        most = "at least a second" if seconds else "more than zero"
        raise UsageError(f"{option} {text!r} must be {most}")
    if seconds is not None and timedelta(seconds=min(seconds, 1e10)) > _LONGEST:
        raise UsageError(f"{option} {text!r} is too long: give {_LONGEST.days}d at most")
    if seconds is None:
        raise UsageError(f"{option} {text!r} is no time: give 30m, 24h or 2d")
    return timedelta(seconds=seconds)
