"""Commands that are printed to be pasted into the same shell."""

import shlex
import textwrap
from collections.abc import Sequence
from typing import Final

from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import printable

__all__ = ["AT_MOST", "as_argument", "given", "to_paste"]

AT_MOST: Final = 1000
"""Words that are printed to be copied; more are left to a list or a file."""
_ON_ONE_LINE: Final = 5


def given(common: Common) -> str:
    """The options that say where the API and the token are, as they were given, after a space.

    Without them a printed command would go to another server, or have no token. Empty where the
    environment says both.
    """
    options = (("--url", common.url), ("--token-file", common.token_file))
    words = [f" {name} {shlex.quote(str(value))}" for name, value in options if value is not None]
    return printable("".join(words))


def as_argument(text: str) -> str:
    """A text as the last argument of a command, which one that begins with a hyphen is, too."""
    quoted = shlex.quote(printable(text))
    return f"-- {quoted}" if text.startswith("-") else quoted


def to_paste(screen: Screen, command: str, option: str, words: Sequence[str]) -> None:
    """Print a command with these words: as arguments, or as the input that `option` reads.

    `command` has its other options, those of `given` included. `--from` takes an id without its
    server only if it is alone on its line.
    """
    if len(words) <= _ON_ONE_LINE:
        screen.note(f"vpsbackups {command} {' '.join(words)}", exact=True)
        return
    are_apart = option == "--from" and not all(":" in word for word in words)
    lines = words if are_apart else textwrap.wrap(" ".join(words), 79, break_on_hyphens=False)
    screen.note("\n".join([f"vpsbackups {command} {option} - <<END", *lines, "END"]), exact=True)
