"""A coverage as one HTML page, which needs nothing beside it."""

import pkgutil
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import timedelta
from hashlib import sha256
from html import escape
from itertools import groupby
from typing import Final

from attrs import frozen

from vpsbackups_async._checks import check_int
from vpsbackups_async.audit.advice import advice
from vpsbackups_async.audit.calendar import A_LINE, CELL, Day, days_of, drawn, first_day
from vpsbackups_async.audit.controls import ControlResult, Evidence, span
from vpsbackups_async.audit.coverage import QUOTA, Coverage, ServerCoverage, State, iso

__all__ = ["html_report"]

_SHOWN: Final = 100
"""Servers of a state, or evidence of a control, that are shown; the others are folded."""
_MOST_DAYS: Final = 366

_MARKS: Final = {
    Day.GOOD: "M3 6.5l2.2 2.2L9.5 3.8",
    Day.FAILED: "M3.2 3.2l5.6 5.6M8.8 3.2L3.2 8.8",
    Day.RUNNING: "M6 3v3.4l2.4 1.6",
    Day.NONE: "M4.5 6h3",
}
_MEANINGS: Final = {
    Day.GOOD: "good: a backup of that day is there",
    Day.FAILED: "failed, and none is good",
    Day.RUNNING: "running, or an unknown status",
    Day.NONE: "none of that day is kept",
}


def html_report(
    coverage: Coverage, results: Iterable[ControlResult] = (), *, days: int = 30
) -> str:
    """One HTML page: what is wrong and what to do, then the last `days` of each server.

    `results` are those of `check`. The page requests nothing, and its security policy forbids that.
    It works without its script, which filters servers by name.

    Raises `ValueError` unless `days` is from 1 to 366.
    """
    if check_int("days", days) > _MOST_DAYS:
        raise ValueError(f"days must be at most {_MOST_DAYS}, not {days}")
    height = -(-days // A_LINE) * CELL
    size = f".days svg {{ width: {CELL * min(days, A_LINE)}px; height: {height}px; }}\n"
    style, script = _asset("page.css") + size, _asset("page.js")
    page = _Page(coverage, days)
    body = [
        page.head(),
        page.wrong(),
        _controls(tuple(results)),
        page.fine(),
        f"<script>{script}</script>",
    ]
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    return _TEMPLATE.format(policy=policy, style=style, body="\n".join(body))


_TEMPLATE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Backup coverage</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


@frozen
class _Page:
    coverage: Coverage
    days: int

    def head(self) -> str:
        """The title, the totals, the filter, and the marks that the calendars use."""
        coverage = self.coverage
        count = len(coverage.servers)
        counted = "".join(
            f'<li class="{state if number else "zero"}"><strong>{number:,}</strong>{state}</li>'
            for state, number in coverage.counts.items()
        )
        total = sum(one.total_mb or 0 for one in coverage.servers)
        held = sum(len(one.backups) for one in coverage.servers)
        limits = f"at most {span(coverage.rpo)} old"
        late = f", {span(coverage.slack)} later if none failed" if coverage.slack else ""
        return (
            f"<header><h1>Backup coverage of {_counted(count, 'server')}</h1>"
            f'<p class="faint">At {iso(coverage.at)} by the server&#39;s clock. The newest good '
            f"backup of a server may be {limits}{late}. {_counted(held, 'backup')}, {total:,} MB."
            '</p></header><main><ul class="totals" role="list" aria-label="Servers in each state">'
            f"{counted}</ul>{_patterns()}"
            '<p id="tools" hidden><label for="filter">Show only servers with</label> '
            '<input id="filter" type="search" autocomplete="off"> '
            '<span id="found" role="status"></span></p>'
        )

    def wrong(self) -> str:
        """The servers that are not ok by their state, each with what to do."""
        wrong = [one for one in self.coverage.servers if one.state is not State.OK]
        if not wrong:
            said = "All servers are ok." if self.coverage.servers else "There are no servers."
            return f"<h2>What is wrong</h2><p>{said}</p>"
        groups = [
            self._group(state, list(servers))
            for state, servers in groupby(wrong, lambda one: one.state)
        ]
        return f"<h2>What is wrong, and what to do</h2>{self._legend()}{''.join(groups)}"

    def fine(self) -> str:
        """The servers that are ok, folded."""
        fine = [one for one in self.coverage.servers if one.state is State.OK]
        if not fine:
            return "</main>"
        legend = "" if len(fine) < len(self.coverage.servers) else self._legend()
        return (
            f"<h2>What is fine</h2>{legend}<details{' open' if len(fine) <= _SHOWN else ''}>"
            f"<summary>{_counted(len(fine), 'server')} with a recent good backup</summary>"
            f"{self._list(fine)}</details></main>"
        )

    def _legend(self) -> str:
        entries = "".join(
            f'<li><svg aria-hidden="true"><path class="{day.word}" d="M0 {CELL // 2}h{CELL}"/>'
            f"</svg>{text}</li>"
            for day, text in _MEANINGS.items()
        )
        first = first_day(self.coverage.at, self.days)
        return (
            f'<p class="faint">Each square is a day (UTC), from {first} to that of the audit, '
            f'{A_LINE} in a line.</p><ul class="legend" role="list">{entries}</ul>'
        )

    def _group(self, state: State, servers: Sequence[ServerCoverage]) -> str:
        text, command, named = advice(state, servers, self.coverage.rpo)
        more = "" if named == len(servers) else f" (the first {named} of them)"
        shown, rest = servers[:_SHOWN], servers[_SHOWN:]
        folded = (
            f"<details><summary>{_counted(len(rest), 'more server')} {state}</summary>"
            f"{self._list(rest)}</details>"
            if rest
            else ""
        )
        return (
            f"<section><h3>{state}: {_counted(len(servers), 'server')}</h3><p>{text}</p>"
            f"<p><code>{command}</code>{more}</p>{self._list(shown)}{folded}</section>"
        )

    def _list(self, servers: Sequence[ServerCoverage]) -> str:
        return f'<ul class="servers" role="list">{"".join(map(self._row, servers))}</ul>'

    def _row(self, one: ServerCoverage) -> str:
        no_age = "" if one.state is State.UNKNOWN else "no good one"
        age = no_age if one.age is None else f"{_short(one.age)} old"
        slots = "" if one.slots_used is None else f"{one.slots_used}/{QUOTA} slots"
        pins = f", {one.pinned} pinned" if one.pinned else ""
        size = "" if one.size_mb is None else f"{one.size_mb:,} MB"
        remark = _remark(one)
        return (
            f'<li class="{one.state}"><b>{one.state}</b><span><bdi>{_text(one.name)}</bdi> '
            f"<small>{one.server_id}</small></span><span>{age}</span><span>{slots}{pins}</span>"
            f"<span>{size}</span>{self._calendar(one)}"
            f"{f'<em>{remark}</em>' if remark else ''}</li>"
        )

    def _calendar(self, one: ServerCoverage) -> str:
        if one.slots_used is None:  # nothing was read, and "none" would be a claim
            return '<div class="days">not read</div>'
        days = days_of(one.backups, self.coverage.at, self.days)
        return f'<div class="days">{drawn(days)}</div>'


def _remark(one: ServerCoverage) -> str:
    """What else there is to say of a server, as HTML."""
    status = one.server_status.casefold()
    growth = one.growth_mb_a_day
    remarks = [
        _text(one.problem),
        f"the server is {_text(one.server_status)}" if status not in {"", "active"} else "",
        f"{_counted(one.failed_since, 'attempt')} failed since" if one.failed_since else "",
        f"in progress for too long: {_ids(one.stuck)}" if one.stuck else "",
        f"from the future: {_ids(one.from_the_future)}" if one.from_the_future else "",
        f"next expiry {one.next_expiry:%Y-%m-%d}" if one.next_expiry else "",
        f"grows by {growth:,.0f} MB a day" if growth and growth >= 1 else "",
    ]
    return "; ".join(filter(None, remarks))


def _controls(results: Sequence[ControlResult]) -> str:
    if not results:
        return ""
    entries = []
    for result in results:
        failed = result.failed
        word = '<b class="pass">pass</b>' if result.passed else '<b class="fail">fail</b>'
        found = f"{_counted(len(failed), 'server')} of {len(result.evidence):,} fail"
        entries.append(
            f"<h3>{word}: {_text(result.control)}</h3>"
            f"<p>{'Every server passes.' if result.passed else found}</p>"
            + (_evidence(failed) if failed else "")
        )
    return f"<section><h2>Controls</h2>{''.join(entries)}</section>"


def _evidence(failed: Sequence[Evidence]) -> str:
    lines = "".join(
        f"<li><bdi>{_text(one.name)}</bdi> {one.server_id}: {_text(one.found)}</li>"
        for one in failed[:_SHOWN]
    )
    left = len(failed) - _SHOWN
    more = f"<li>and {left:,} more, see the JSON of the audit</li>" if left > 0 else ""
    return f'<details><summary>Evidence</summary><ul role="list">{lines}{more}</ul></details>'


def _patterns() -> str:
    """The marks of the days: patterns, so that a row of equal days is one rectangle."""
    patterns = "".join(
        f'<pattern id="{day.word}" width="{CELL}" height="{CELL}" patternUnits="userSpaceOnUse">'
        f'<rect class="cell" width="{CELL}" height="{CELL}" rx="2"/>'
        f'<path class="mark" d="{mark}"/></pattern>'
        for day, mark in _MARKS.items()
    )
    return f'<svg id="patterns" aria-hidden="true"><defs>{patterns}</defs></svg>'


def _text(text: str) -> str:
    """A text of the server as HTML; without what UTF-8 cannot hold, which JSON can."""
    return escape(text.encode("utf-8", "replace").decode())


def _ids(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(duration: timedelta) -> str:
    hours = duration / timedelta(hours=1)
    return f"{int(hours)} h" if hours < 48 else f"{int(hours / 24)} days"


def _asset(name: str) -> str:
    data = pkgutil.get_data(__package__, name)
    if data is None:
        raise FileNotFoundError(f"{name} of vpsbackups_async.audit is missing")
    return data.decode()


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
