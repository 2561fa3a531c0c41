"""Write the completion script of a shell.

Usage: vpsbackups completion bash|zsh|fish

  source <(vpsbackups completion bash)  # in ~/.bashrc
  source <(vpsbackups completion zsh)   # in ~/.zshrc, after compinit
  vpsbackups completion fish >~/.config/fish/completions/vpsbackups.fish
"""

import sys
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from vpsbackups_async.cli.app import app
from vpsbackups_async.cli.ends import Exit

__all__ = ["run", "script"]

_Shell = Literal["bash", "zsh", "fish"]

_ZSH_END: Final = """
if [[ $funcstack[1] == (_vpsbackups|_cyclopts_vpsbackups) ]]; then
  _cyclopts_vpsbackups "$@"
else
  compdef _cyclopts_vpsbackups vpsbackups
fi
"""
"""Lets the script be sourced, or be a file of either name in a folder of $fpath."""


def run(shell: Annotated[_Shell, Parameter(metavar="SHELL", help="bash, zsh or fish")], /) -> int:
    """The exit code of the command, once it has ended."""
    sys.stdout.write(script(shell))
    return Exit.FINE


def script(shell: _Shell) -> str:
    """The completion script of this shell."""
    return app.generate_completion(shell=shell) + (_ZSH_END if shell == "zsh" else "")
