"""The command line `vpsbackups`, also `python -m vpsbackups_async`; needs the extra `cli`."""

import sys
from collections.abc import Sequence

__all__ = ["main"]

_OF_THE_EXTRA = {"cyclopts", "rich"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code.

    `arguments` are those after the program's name, by default those of the process.
    """
    try:
        from vpsbackups_async.cli.app import run  # noqa: PLC0415  # the extra may be missing
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in _OF_THE_EXTRA:
            raise
        sys.stderr.write("vpsbackups needs its extra: pip install 'vpsbackups-async[cli]'\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return run(sys.argv[1:] if arguments is None else arguments)
