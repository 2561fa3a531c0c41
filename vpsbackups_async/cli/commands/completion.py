"""`vpsbackups completion`."""

import sys
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from vpsbackups_async.cli.app import app
from vpsbackups_async.cli.ends import Exit

__all__ = ["completion", "script"]

_Shell = Literal["bash", "zsh", "fish"]

_ZSH_END: Final = """
if [[ $funcstack[1] == (_vpsbackups|_cyclopts_vpsbackups) ]]; then
  _cyclopts_vpsbackups "$@"
else
  compdef _cyclopts_vpsbackups vpsbackups
fi
"""
"""Makes it work when it is sourced, and from a file of either name in a folder of $fpath."""


def completion(
    shell: Annotated[_Shell, Parameter(metavar="SHELL", help="bash, zsh or fish")], /
) -> int:
    """The completion script for bash, zsh or fish, on standard output."""
    sys.stdout.write(script(shell))
    return Exit.FINE


def script(shell: _Shell) -> str:
    """What a shell has to read."""
    return app.generate_completion(shell=shell) + (_ZSH_END if shell == "zsh" else "")
