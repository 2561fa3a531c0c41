"""The commands, and how each of them ends.

A command's room is loaded when it is called: help and completion need not wait for it.
"""

import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from attrs import frozen
from cyclopts import App, CycloptsError, Group

from vpsbackups_async.cli.ends import Exit, RefusedError, UsageError, code_of, explain, hint_of
from vpsbackups_async.cli.helping import Help
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.errors import VPSBackupsError

__all__ = ["app", "run"]

_EPILOGUE: Final = """\
VPS_API_TOKEN holds the token, VPS_API_URL the URL if not https://admin.vps.org.
Exit codes: 0 all fine, 1 some failed, 2 usage, 3 authentication,
            4 timed out waiting, 130 interrupted

Examples:
  vpsbackups list --server 12345 --since 7d
  vpsbackups create --servers-from fleet.txt --description Nightly --wait"""

app = App(
    name="vpsbackups",
    help="The backups of your VPS.org servers.",
    help_format="plaintext",
    help_formatter=Help(),
    help_epilogue=_EPILOGUE,
    group_parameters=Group("Options", sort_key=1),
    group_arguments=Group("Arguments", sort_key=0),
    suppress_keyboard_interrupt=False,
    version=lambda: importlib.metadata.version("vpsbackups-async"),
)


@frozen
class _Command:
    """Where a command is, and what its help says beside its options."""

    room: str
    usage: str
    help: str
    examples: tuple[str, ...]


_COMMANDS: Final = {
    "list": _Command(
        "list:list_backups",
        "[OPTIONS]",
        "List backups: a table, or plain lines where it is piped.",
        (
            "vpsbackups list --since 7d --status failed | cut -d' ' -f1  # ID:SERVER",
            "vpsbackups list --type manual --ndjson | jq .server.name",
        ),
    ),
    "show": _Command(
        "show:show",
        "[OPTIONS] ID",
        "Show one backup in full.",
        ("vpsbackups show 502:12345", "vpsbackups show 502 --json | jq .status"),
    ),
    "create": _Command(
        "create:create",
        "[OPTIONS] SERVER...",
        "Start a backup of each server; with --wait, wait for the end.\n\n"
        "Piped, it writes ID:SERVER of each. Ctrl-C finishes and names what is under way.",
        (
            "vpsbackups create 12345 12346 --description Nightly --wait",
            "vpsbackups create --servers-from fleet.txt >started.txt",
        ),
    ),
    "wait": _Command(
        "wait:wait",
        "[OPTIONS] ID...",
        "Wait until backups are completed.\n\n"
        "With the server (ID:SERVER) it may take fewer requests. Piped, it writes\n"
        "ID:SERVER of each that is completed.",
        (
            "vpsbackups wait 502:12345 503:12346 --timeout 30m",
            "vpsbackups wait --from started.txt",
            "vpsbackups list --status in_progress | vpsbackups wait --from -",
        ),
    ),
    "delete": _Command(
        "delete:delete",
        "[OPTIONS] ID...",
        "Delete backups for good, after asking.\n\n"
        "It shows them and asks; where nobody can answer it refuses without --yes.",
        (
            "vpsbackups delete 502:12345 503:12346",
            "vpsbackups delete -y $(vpsbackups list --status failed | cut -d' ' -f1)",
        ),
    ),
    "restore": _Command(
        "restore:restore",
        "[OPTIONS] SERVER ID",
        "Replace a server by one of its backups, after asking.\n\n"
        "It shows which backup of which age would replace which server, and asks; where\n"
        "nobody can answer it refuses without --yes.",
        ("vpsbackups restore 12345 502",),
    ),
    "demo": _Command(
        "demo:demo",
        "",
        "Back up 25 servers of a server of its own; needs no account.",
        ("vpsbackups demo",),
    ),
    "fake": _Command(
        "fake:fake",
        "[OPTIONS]",
        "Run a server to try things on, until Ctrl-C.\n\n"
        "It listens on 127.0.0.1, keeps all in memory, and writes the two variables to\n"
        "export in another shell.",
        ("vpsbackups fake --port 8080 --servers 500 --rate-limit 20",),
    ),
    "completion": _Command(
        "completion:completion",
        "bash|zsh|fish",
        "Write the completion script of a shell.",
        (
            "source <(vpsbackups completion bash)  # in ~/.bashrc",
            "source <(vpsbackups completion zsh)   # in ~/.zshrc, after compinit",
            "vpsbackups completion fish >~/.config/fish/completions/vpsbackups.fish",
        ),
    ),
}
_CUT_SHORT: Final = {"create", "wait", "delete", "restore"}
"""What has not done its work when its reader goes away."""

for _place, (_name, _command) in enumerate(_COMMANDS.items()):
    app.command(
        f"vpsbackups_async.cli.commands.{_command.room}",
        name=_name,
        usage=f"vpsbackups {_name} {_command.usage}".rstrip(),
        help=_command.help,
        sort_key=_place,
        help_epilogue="\n  ".join(("Examples:", *_command.examples)),
    )
app["--help"].help = "this, or a command's own help"
app["--version"].help = "which version this is"


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Nothing is raised for what a user can do about."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except OSError as error:
        # What could not be written would fail once more when Python ends: let it go into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader (`head`) has what it wanted
            return Exit.SOME_FAILED if _CUT_SHORT.intersection(arguments[:1]) else Exit.FINE
        Screen().error(explain(error))
        return Exit.SOME_FAILED


def _run(arguments: Sequence[str]) -> int:
    screen = Screen()
    try:
        if not arguments:
            app.help_print([], console=screen.err)
            return Exit.USAGE
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (CycloptsError, UsageError) as error:
        screen.error(explain(error), f"{_with_command(arguments)} --help tells more")
        return Exit.USAGE
    except (VPSBackupsError, ValueError, RefusedError) as error:
        if "--debug" in arguments:
            screen.note(traceback.format_exc(), exact=True)
        screen.error(explain(error), hint_of(error))
        return code_of([error])
    return code if isinstance(code, int) else Exit.FINE


def _with_command(arguments: Sequence[str]) -> str:
    return f"vpsbackups {arguments[0]}" if arguments[0] in _COMMANDS else "vpsbackups"
