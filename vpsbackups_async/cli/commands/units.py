"""Write systemd units that rotate and audit backups each day.

The token is a credential, read from --token-file or /etc/vpsbackups/token.

Usage: vpsbackups units [OPTIONS] DIRECTORY

  vpsbackups units /etc/systemd/system --audit "--rpo 26h --ping URL"
"""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.options import DEFAULTS, FILE, Common, Flag
from vpsbackups_async.cli.screen import Screen

__all__ = ["run"]

_TOKEN_FILE: Final = Path("/etc/vpsbackups/token")
_CREDENTIAL: Final = "vps-token"
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_./:=-]+")
_ROTATE: Final = "--all --job nightly --keep-daily 4 --keep-weekly 4"
_AUDIT: Final = "--rpo 26h"

_SERVICE: Final = """\
[Unit]
Description={what}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={command}
LoadCredential={credential}:{token_file}
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
"""
_TIMER: Final = """\
[Unit]
Description={what}

[Timer]
OnCalendar={when}
Persistent=true
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
"""


def _options(command: str, default: str) -> Parameter:
    return Parameter(
        metavar="OPTIONS",
        allow_leading_hyphen=True,
        help=f"those of {command}, quoted; {default}",
    )


def run(
    directory: Annotated[Path, FILE, Parameter(metavar="DIRECTORY", help="where to write them")],
    /,
    *,
    rotate: Annotated[str, _options("rotate", "4 daily and 4 weekly of all servers")] = _ROTATE,
    audit: Annotated[str, _options("audit", f"{_AUDIT}, all servers")] = _AUDIT,
    rotate_at: Annotated[
        str, Parameter(metavar="WHEN", help="as systemd's OnCalendar; 02:00 each day")
    ] = "*-*-* 02:00:00",
    audit_at: Annotated[
        str, Parameter(metavar="WHEN", help="as systemd's OnCalendar; 08:00 each day")
    ] = "*-*-* 08:00:00",
    force: Annotated[Flag, Parameter(help="replace units that are there and differ")] = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    files = {
        **_units("rotate", "Rotate VPS.org backups", rotate, rotate_at, common),
        **_units("audit", "Audit VPS.org backups", audit, audit_at, common),
    }
    if not force:
        for name, text in files.items():
            file = directory / name
            if file.exists() and file.read_text("utf-8", "replace") != text:
                raise UsageError(f"{file} is there and differs: --force replaces it")
    for name, text in files.items():
        (directory / name).write_text(text, "utf-8")
    screen = Screen(quiet=common.quiet)
    screen.result("\n".join(str(directory / name) for name in files))
    timers = " ".join(name for name in files if name.endswith(".timer"))
    screen.summary(f"to start them: systemctl daemon-reload && systemctl enable --now {timers}")
    return Exit.FINE


def _units(command: str, what: str, given: str, when: str, common: Common) -> dict[str, str]:
    """A service that runs the command once, and the timer that starts it, by their file names."""
    try:
        options = shlex.split(given)
    except ValueError as error:
        raise UsageError(f"--{command} {given!r}: {error}") from None
    if any(word.startswith("--token-file") for word in options):
        raise UsageError(f"--{command}: give --token-file to units itself")
    where = [] if common.url is None else ["--url", common.url]
    words = [sys.executable, "-m", "vpsbackups_async", command, *where, *options]
    # %d is the directory of the credentials, so it is not quoted.
    line = f"{' '.join(map(_quoted, words))} --token-file %d/{_CREDENTIAL}"
    token_file = (common.token_file or _TOKEN_FILE).absolute()
    if "\n" in f"{line}{when}{token_file}":
        raise UsageError("a unit takes no line breaks")
    service = _SERVICE.format(
        what=what,
        command=line,
        credential=_CREDENTIAL,
        token_file=str(token_file).replace("%", "%%"),
    )
    name = f"vpsbackups-{command}"
    return {f"{name}.service": service, f"{name}.timer": _TIMER.format(what=what, when=when)}


def _quoted(word: str) -> str:
    """The word as systemd reads it: `%` and `$` have a meaning there, also within quotes."""
    if _SIMPLE.fullmatch(word):
        return word
    for char, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(char, written)
    return f'"{word}"'
