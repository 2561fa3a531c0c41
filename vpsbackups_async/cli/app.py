"""The table of commands, and the exit code of each run.

The module of a command is loaded when the command is called, so that `--help` stays quick.
"""

import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, Group

from vpsbackups_async.cli.ends import (
    Exit,
    NothingToDo,
    RefusedError,
    UsageError,
    code_of,
    explain,
    hint_of,
)
from vpsbackups_async.cli.helping import PACKAGE, Help, help_of
from vpsbackups_async.cli.not_made import replace_named
from vpsbackups_async.cli.screen import Screen, Terminal
from vpsbackups_async.cli.signals import Stopped, catching
from vpsbackups_async.cli.text import safe
from vpsbackups_async.cli.usage import words_of
from vpsbackups_async.errors import VPSBackupsError

__all__ = ["app", "run"]

_EPILOGUE: Final = """\
VPS_API_TOKEN holds the token, VPS_API_URL the URL if not https://admin.vps.org.
Every command: --url URL and --token-file FILE instead of these, -q no progress,
-v what it took, --debug the log of retries.
Exit: 0 all fine, 1 some failed, 2 usage, 3 auth, 4 timed out, 130 interrupted

Examples:
  vpsbackups create --servers-from fleet.txt --description Nightly --wait"""

_HELP: Final = frozenset({"-h", "--help"})
_QUIET: Final = frozenset({"-q", "--quiet"})

app: App = App(
    name="vpsbackups",
    help="The backups of your VPS.org servers.",
    help_format="plaintext",
    help_formatter=Help(),
    help_epilogue=_EPILOGUE,
    group_parameters=Group("Options", sort_key=1),
    group_arguments=Group("Arguments", sort_key=0),
    console=Terminal(),
    suppress_keyboard_interrupt=False,
    version=lambda: importlib.metadata.version("vpsbackups-async"),
)

_COMMANDS: Final = {
    "list": Exit.FINE,
    "servers": Exit.FINE,
    "show": Exit.FINE,
    "create": Exit.SOME_FAILED,
    "wait": Exit.SOME_FAILED,
    "delete": Exit.SOME_FAILED,
    "restore": Exit.SOME_FAILED,
    "prune": Exit.SOME_FAILED,
    "rotate": Exit.SOME_FAILED,
    "audit": Exit.SOME_FAILED,
    "report": Exit.FINE,
    "doctor": Exit.FINE,
    "units": Exit.FINE,
    "run": Exit.FINE,
    "demo": Exit.FINE,
    "fake": Exit.FINE,
    "completion": Exit.FINE,
}
"""The commands in the order of the help, each with its exit code if its output is a closed pipe.

A command that only reads is fine then; one that changes something has left work undone, and an
audit nobody read to its end must not pass for a good one.
"""

_RUN_COMMANDS: Final = (
    "submit", "work", "status", "results", "retry", "cancel", "forget", "list", "schedule",
)  # fmt: skip
"""The commands below `run`, in the order of its help."""


def _runs(place: int) -> App:
    texts = help_of("run/__init__")
    runs = App(
        name="run",
        help=texts.get("help", ""),
        usage=texts.get("usage"),
        help_epilogue=texts.get("help_epilogue"),
        sort_key=place,
        help_format="plaintext",
        help_formatter=Help(),
        group_parameters=app.group_parameters,
        group_arguments=app.group_arguments,
        version_flags=(),
    )
    for number, name in enumerate(_RUN_COMMANDS):
        module = f"{PACKAGE}.run.{name}:run"
        runs.command(module, name=name, sort_key=number, **help_of(f"run/{name}"))
    runs["--help"].help = "this, or a command's own help"
    return runs


for _place, _name in enumerate(_COMMANDS):
    if _name == "run":
        app.command(_runs(_place))
    else:
        app.command(f"{PACKAGE}.{_name}:run", name=_name, sort_key=_place, **help_of(_name))
app["--help"].help = "this, or a command's own help"
app["--version"].help = "which version this is"


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. An error that the user can act on is printed, not raised."""
    if not _have_streams():
        return Exit.USAGE
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except NothingToDo as nothing:
        Screen(quiet=not _QUIET.isdisjoint(arguments)).summary(str(nothing))
        return Exit.FINE
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, `head` for example, has enough
            if not arguments or not _HELP.isdisjoint(arguments):
                return Exit.FINE
            return _COMMANDS.get(arguments[0], Exit.FINE)
        Screen().error(explain(error))
        return Exit.SOME_FAILED
    finally:
        _drop_what_cannot_be_written()


def _drop_what_cannot_be_written() -> None:
    """Leave nothing in the buffers of standard output and error that cannot be written.

    Python flushes them when it ends: that would fail again, and change the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _have_streams() -> bool:
    """Whether results can be written; a closed input or error stream is replaced by nothing.

    Python sets a standard stream that was closed when it started (`>&-`) to None.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115  # for as long as the process runs
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # likewise
    if sys.stdout is None:
        sys.stderr.write("error: standard output is closed\n")
        return False
    return True


def _run(arguments: Sequence[str]) -> int:
    screen = Screen()
    try:
        if list(arguments) in ([], ["run"]):
            app.help_print(arguments, console=screen.err)
            return Exit.USAGE
        with catching():
            code = app(
                arguments, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except Stopped as stopped:
        return stopped.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (CycloptsError, UsageError) as error:
        said = explain(error)
        if isinstance(error, CycloptsError):
            said = safe(words_of(error))
            replace_named(arguments)
        screen.error(
            said, " ".join(filter(None, ("vpsbackups", _command(arguments), "--help tells more")))
        )
        return Exit.USAGE
    except (VPSBackupsError, ValueError, RefusedError) as error:
        if "--debug" in arguments:
            screen.note(traceback.format_exc(), exact=True)
        concurrency = _command(arguments) in {"create", "run work"}
        screen.error(explain(error), hint_of(error, concurrency=concurrency))
        return code_of([error])
    return code if isinstance(code, int) else Exit.FINE


def _command(arguments: Sequence[str]) -> str:
    """The words that name the command, empty where there is none."""
    first, second = (*arguments, "", "")[:2]
    if first == "run" and second in _RUN_COMMANDS:
        return f"run {second}"
    return first if first in _COMMANDS else ""
