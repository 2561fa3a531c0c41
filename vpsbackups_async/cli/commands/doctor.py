"""Check settings, token and API: a line for each, with what to do.

It only reads, and shows no secret; exit 1 if something does not work.

Usage: vpsbackups doctor [OPTIONS]

  vpsbackups doctor --token-file /etc/vpsbackups/token
"""

import importlib.metadata
import os
import platform
import re
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, Literal

from attrs import frozen
from rich.text import Text

from vpsbackups_async import _wire
from vpsbackups_async._creating.evidence import clock_offset
from vpsbackups_async._lists.lists import backups_query
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async.cli.ends import Exit, UsageError, explain, hint_of
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.selection import PAGE
from vpsbackups_async.cli.session import Session, token_source, url_source
from vpsbackups_async.cli.text import counted, safe
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, Page

__all__ = ["run"]

_Mark = Literal["ok", "warn", "FAIL"]
_STYLES: Final[dict[_Mark, str]] = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
_CLOCK_MAY_DIFFER: Final = 60.0
"""Seconds. Ages are by the server's clock, except where it sends none."""
_OF_ALL: Final = frozenset({"admin", "all", "full", "full_access"})
_READING: Final = re.compile(r"(?<![a-z])(?:read|view|list)(?![a-z])")
_NOT_TRIED: Final = (
    "Creating, restoring and deleting backups were not tried: a 403 tells what is missing"
)
_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


@frozen
class _Finding:
    """One line: what was checked, how it is, and what to do."""

    mark: _Mark
    what: str
    text: str
    to_do: str = ""


def run(*, common: Common = DEFAULTS) -> int:
    """The exit code of the command, once it has ended."""
    screen = Screen(quiet=common.quiet)
    findings = [_versions(), _proxy()]
    for finding in findings:
        _show(screen, finding)
    try:
        session = Session(common)
    except (UsageError, ConfigurationError) as error:
        _show(screen, _Finding("FAIL", "settings", explain(error)))
        return Exit.USAGE
    code = Exit.FINE
    with session:
        client = session.client.with_options(
            retry=RetryPolicy(attempts=1), timeouts=Timeouts(attempt=10, deadline=20)
        )
        for finding in (_url(session, common), *_token(common)):
            _show(screen, finding)
        for check in (_account, _servers, _backups):
            code = max(code, session.do(_checked(screen, client, check)))
    return code


def _show(screen: Screen, finding: _Finding) -> None:
    lines = [f"{finding.what:<10} {finding.text}"]
    if finding.to_do:
        lines.append(f"{'':<15} {finding.to_do}")
    text = "\n".join(lines)
    if screen.shows_tables:
        mark = Text(f"{finding.mark:<4} ", _STYLES[finding.mark])
        screen.out.print(mark.append_text(Text(text, "default")), soft_wrap=True)
    else:
        screen.result(f"{finding.mark:<4} {text}")


async def _checked(
    screen: Screen,
    client: BackupsClient,
    check: Callable[[BackupsClient], Awaitable[list[_Finding]]],
) -> Exit:
    """Show what a check finds; the exit code."""
    try:
        findings = await check(client)
    except VPSBackupsError as error:
        what = check.__name__.removeprefix("_")
        findings = [_Finding("FAIL", what, explain(error), hint_of(error))]
        refused = isinstance(error, AuthenticationError)
        code = Exit.AUTHENTICATION if refused else Exit.SOME_FAILED
    else:
        code = Exit.FINE
    for finding in findings:
        _show(screen, finding)
    return code


# --- Here ----------------------------------------------------------------------------------------


def _versions() -> _Finding:
    names = ("vpsbackups-async", "aiohttp")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return _Finding("ok", "versions", f"{found}, Python {platform.python_version()}")


def _proxy() -> _Finding:
    named = [name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
    if not named:
        return _Finding("ok", "proxy", "none")
    return _Finding(
        "warn",
        "proxy",
        f"none, although {', '.join(named)} is set",
        "This command connects directly; if only the proxy is allowed out, use the library",
    )


def _url(session: Session, common: Common) -> _Finding:
    shown = repr(session.client).removeprefix("<BackupsClient of ").removesuffix(">")
    return _Finding("ok", "url", f"{shown} ({url_source(common)})")


def _token(common: Common) -> list[_Finding]:
    source = token_source(common)
    findings = [_Finding("ok", "token", f"from {source}")]
    if common.token_file is not None and os.name == "posix":
        mode = stat.S_IMODE(common.token_file.stat().st_mode)
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            to_do = f"Others may read it: chmod 600 {common.token_file}"
            findings = [_Finding("warn", "token", f"from {source}, mode {mode:04o}", to_do)]
    return findings


# --- There ---------------------------------------------------------------------------------------


async def _account(client: BackupsClient) -> list[_Finding]:
    try:
        account = await client.account()
    except (NotFoundError, PermissionDeniedError) as error:
        return [_Finding("warn", "account", explain(error), hint_of(error))]
    name = safe(account.email or account.company_name) or "(no name is told)"
    token = f", token {safe(account.token_name)!r}" if account.token_name else ""
    return [_Finding("ok", "account", f"{name}{token}"), _allowed(account.permissions)]


def _allowed(permissions: Sequence[str]) -> _Finding:
    """Whether the token may change backups, as far as names tell that the API does not document."""
    if not permissions:
        return _Finding("warn", "allowed", "no permissions are told", "A 403 tells what is missing")
    told = ", ".join(map(safe, permissions))
    names = [name.casefold() for name in permissions]
    of_backups = [name for name in names if "backup" in name]
    if any("*" in name or name in _OF_ALL for name in names):
        return _Finding("ok", "allowed", told)
    if not of_backups:
        return _Finding("warn", "allowed", f"{told}: none names backups", _NOT_TRIED)
    if all(_READING.search(name) for name in of_backups):
        return _Finding("warn", "allowed", f"{told}: no more than reading of backups", _NOT_TRIED)
    return _Finding("ok", "allowed", told)


async def _servers(client: BackupsClient) -> list[_Finding]:
    number = await client.servers(page_size=PAGE).count()
    if number:
        return [_Finding("ok", "servers", counted(number, "server"))]
    return [_Finding("warn", "servers", "none", "Is it the token of the right account?")]


async def _backups(client: BackupsClient) -> list[_Finding]:
    responses: list[_wire.Response] = []
    began, before = time.monotonic(), datetime.now(UTC)
    walk = client._lists.open(  # noqa: SLF001  # a stream does not give the headers
        backups_query(None, None, PAGE), on_response=responses.append
    )
    async with aclosing(walk.pages()) as pages:
        page = await anext(pages)
    seconds = time.monotonic() - began
    number = len(page.items) if page.count is None else page.count
    findings = [_Finding("ok", "backups", f"{counted(number, 'backup')}, read in {seconds:.2f} s")]
    findings.append(_page_size(page))
    offset = clock_offset(_wire.date_of(responses[-1].headers), before)
    findings.append(_clock(offset, seconds))
    return findings


def _page_size(page: Page[Backup]) -> _Finding:
    """Whether the size that was asked for is taken."""
    size = len(page.items)
    if size > PAGE:
        return _Finding("ok", "page size", f"{size} at once of {PAGE} asked for")
    if page.next is None:
        return _Finding("ok", "page size", "not known: all there is fits into a page")
    if size == PAGE:
        return _Finding("ok", "page size", f"{size} a page, as asked for")
    to_do = f"Lists take {PAGE / max(1, size):.0f} times as many requests as with {PAGE} a page"
    return _Finding("warn", "page size", f"{size} a page of {PAGE} asked for", to_do)


def _clock(offset: float | None, seconds: float) -> _Finding:
    """Whether this machine's clock and the server's agree, as far as a `Date` can tell."""
    if offset is None:
        to_do = "Ages are by this machine's clock: keep it right"
        return _Finding("warn", "clock", "the server tells no time", to_do)
    ahead = f"{abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} the server's"
    if abs(offset) <= _CLOCK_MAY_DIFFER + seconds:
        return _Finding("ok", "clock", f"within {max(1, round(abs(offset)))} s of the server's")
    return _Finding("warn", "clock", ahead, "Set this machine's clock: use NTP")
