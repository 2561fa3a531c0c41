"""The options that every command has, and the types that commands share."""

from pathlib import Path
from typing import Annotated

from attrs import frozen
from cyclopts import Group, Parameter

__all__ = ["DEFAULTS", "Common", "Flag"]

Flag = Annotated[bool, Parameter(negative=())]

_GROUP = Group("Of every command", sort_key=2)


@Parameter(name="*", group=_GROUP)
@frozen(kw_only=True)
class Common:
    """Where the API is, who asks, and how much is said."""

    url: Annotated[str | None, Parameter(metavar="URL", help="the API, if not VPS_API_URL")] = None
    token_file: Annotated[
        Path | None, Parameter(metavar="FILE", help="holds the token, if not VPS_API_TOKEN")
    ] = None
    quiet: Annotated[Flag, Parameter(("--quiet", "-q"), help="no progress, no summary")] = False
    verbose: Annotated[Flag, Parameter(("--verbose", "-v"), help="what it took, at the end")] = (
        False
    )
    debug: Annotated[Flag, Parameter(help="the log of retries, and tracebacks")] = False


DEFAULTS = Common()
