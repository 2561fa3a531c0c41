"""The HTML report: what is wrong first, nothing beside it, every text of the server as text."""

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers_chromium import needs_chromium, opened
from helpers_cli import Here
from helpers_retention import NOW, backup

from vpsbackups_async import Backup, Server, ServerError
from vpsbackups_async.audit import Coverage, Kept, Reach, State, check, cover, html_report
from vpsbackups_async.audit.calendar import Day, days_of, drawn, in_words
from vpsbackups_async.testing import FakeVPS

DAY = timedelta(days=1)
EVIL = "</script><img src=x onerror=\"document.title='hacked'\"></style>&amp;'"


def ago(days: float, status: str = "completed", **changes: Any) -> Backup:
    return backup(NOW - timedelta(days=days), status=status, **changes)


def coverage(count: int = 7, name: str = "web-{}", status: str = "active") -> Coverage:
    """The coverage of so many servers, the first seven of them in the seven states."""
    lists: dict[int, Any] = {
        1: [], 2: [ago(0.1, "failed")], 3: [ago(0.4, "in_progress", id=77)],
        4: [ago(3), ago(5, "failed")], 5: ServerError(503, detail=EVIL), 6: [ago(0, "in_progress")],
    }  # fmt: skip
    kept = [ago(night + 0.1, size_mb=4000 + night) for night in range(10)]
    lists |= dict.fromkeys(range(7, count + 1), kept)
    servers = {number: Server(number, name.format(number), status=status) for number in lists}
    return cover(servers, lists, NOW, rpo=DAY)


class _Texts(HTMLParser):
    """The tags of a page, and its texts outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"script", "style"}.intersection(self.tags[-1:]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


# --- The calendar --------------------------------------------------------------------------------


def test_a_day_shows_the_best_that_it_brought_by_utc() -> None:
    made = [
        backup("2026-11-29 00:00"), backup("2026-11-29 01:00", status="failed"),
        backup("2026-11-28 23:59", status="failed"), backup("2026-11-27 12:00", status="odd"),
        backup("2026-11-27 12:00", status="failed"), backup("2026-11-25 00:00"),
        backup("2026-11-24 23:59"), backup("2026-11-29 13:00", status="in_progress"),
    ]  # fmt: skip
    assert days_of(made, NOW, 5) == [Day.GOOD, Day.NONE, Day.RUNNING, Day.FAILED, Day.GOOD]
    assert days_of([backup("2026-11-29 13:00")], NOW, 2) == [Day.NONE, Day.NONE]


def test_equal_days_in_a_row_are_one_line_and_a_line_has_30_days() -> None:
    days = [Day.GOOD] * 29 + [Day.FAILED] * 2 + [Day.GOOD]
    assert drawn(days) == (
        '<svg role="img" aria-label="30 good, 2 failed">'
        '<path class="good" d="M0 6h348M12 18h12"/>'
        '<path class="failed" d="M348 6h12M0 18h12"/></svg>'
    )


def test_the_words_of_a_calendar_count_each_kind_of_day() -> None:
    assert in_words([Day.NONE, Day.GOOD, Day.RUNNING, Day.NONE]) == "1 good, 1 running, 2 none"


# --- The page ------------------------------------------------------------------------------------


def test_what_is_wrong_comes_first_by_state_with_what_to_do() -> None:
    text = _Texts(html_report(coverage())).text
    places = [text.index(f"{state}: 1 server") for state in State if state is not State.OK]
    assert places == sorted(places)
    assert places[-1] < text.index("1 server with a recent good backup")
    for command in (
        "create --wait 1", "create --wait 2", "delete 77:3", "create --wait 4",
        "audit --rpo 24h 5", "audit --rpo 24h 6",
    ):  # fmt: skip
        assert f"vpsbackups {command}" in text


def test_a_server_that_was_not_read_has_no_calendar_and_no_claim() -> None:
    page = html_report(coverage())
    (row,) = re.findall(r'<li class="unknown"><b>.*?</li>', page)
    assert "not read" in row
    assert "<svg" not in row
    assert "no good one" not in row


def test_the_names_of_stopped_servers_say_so() -> None:
    assert "the server is stopped" in html_report(coverage(status="stopped"))
    assert "the server is" not in html_report(coverage())


def test_where_all_is_fine_the_page_says_so_and_shows_the_servers() -> None:
    found = cover({1: None}, {1: [ago(0.1)]}, NOW, rpo=DAY)
    page = html_report(found, check(found, [Kept(1)]))
    text = _Texts(page).text
    assert "All servers are ok." in text
    assert "pass: at least 1 good backups are kept" in text
    assert "<details open>" in page


def test_a_page_without_servers_does_not_say_that_all_is_fine() -> None:
    assert "There are no servers." in html_report(cover({}, {}, NOW, rpo=DAY))


def test_a_control_that_fails_shows_its_evidence() -> None:
    found = coverage()
    text = _Texts(html_report(found, check(found, [Reach(2 * DAY)]))).text
    assert "fail: the good backups reach at least 2 days back" in text
    assert "5 servers of 7 fail" in text


@pytest.mark.parametrize("where", ["name", "status", "problem"])
def test_a_text_of_the_server_stays_text(where: str) -> None:
    found = coverage(
        name=EVIL if where == "name" else "web", status=EVIL if where == "status" else ""
    )
    page = html_report(found, check(found, [Kept(2)]))
    assert _Texts(page).tags.count("img") == 0
    assert _Texts(page).tags.count("script") == 1
    assert EVIL in "".join(_Texts(page).texts)


def test_a_name_that_utf8_cannot_hold_spoils_no_page() -> None:
    assert html_report(coverage(name="\ud800x")).encode()


def test_the_page_refers_to_nothing_outside_of_it() -> None:
    page = html_report(coverage(200))
    assert re.findall(r"https?:|@import|<[^>]* src=|//[a-z]", page) == []
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert re.findall(r'href="(.*?)"', page) == ["data:,"]
    assert "default-src 'none'" in page


def test_many_servers_of_a_state_are_folded_after_the_first() -> None:
    lists: dict[int, list[Backup]] = {number: [] for number in range(1, 251)}
    page = html_report(cover(dict.fromkeys(lists), lists, NOW, rpo=DAY))
    shown, _, folded = page.partition("<summary>150 more servers never</summary>")
    assert (shown.count('<li class="never"><b>'), folded.count("<b>never</b>")) == (100, 150)
    assert "(the first 20 of them)" in shown


def test_the_page_of_5000_servers_is_smaller_than_3_mb() -> None:
    def nights(number: int) -> Sequence[Backup]:
        each = [0.3, 1.3, 2.3, 3.3, 7.3, 10.3, 14.3, 18.3, 22.3, 26.3]
        wrong = number % 5
        return [
            ago(day, "failed" if place == wrong else "completed") for place, day in enumerate(each)
        ]

    servers = {number: Server(number, f"web-server-{number:04}") for number in range(1, 5001)}
    lists = {number: nights(number) for number in servers}
    found = cover(servers, lists, NOW, rpo=DAY)
    assert len(html_report(found, check(found, [Kept(10)])).encode()) < 3_000_000


@pytest.mark.parametrize("days", [0, 367, 1.5, None])
def test_days_out_of_range_are_refused(days: Any) -> None:
    with pytest.raises(ValueError, match="days must be"):
        html_report(coverage(), days=days)


# --- In Chromium ---------------------------------------------------------------------------------


@needs_chromium
def test_in_a_browser_the_page_runs_without_an_error_and_requests_nothing() -> None:
    found = coverage(150, name=EVIL)
    seen = opened(html_report(found, check(found, [Kept(2)]), days=90))
    assert (seen.console, seen.paths) == ([], ["/"])
    assert "<title>Backup coverage</title>" in seen.dom
    assert "<img" not in seen.dom
    assert '<p id="tools">' in seen.dom  # shown by the script


@needs_chromium
def test_the_filter_shows_matching_servers_also_those_that_are_folded() -> None:
    act = (
        "<script>{const it = document.getElementById('filter');"
        "it.value = ' WEB-199 '; it.dispatchEvent(new Event('input'));"
        "const shown = [...document.querySelectorAll('.servers > li:not([hidden])')];"
        "const seen = shown[0].checkVisibility();"
        "const open = document.querySelectorAll('details[open]').length;"
        "const said = document.getElementById('found').textContent;"
        "it.value = ''; it.dispatchEvent(new Event('input'));"
        "const after = document.querySelectorAll('.servers > li:not([hidden])').length;"
        "document.title = [shown.length, seen, open, said, after,"
        "document.querySelectorAll('details[open]').length].join('|');}</script></body>"
    )
    page = re.sub(r"<meta http-equiv.*?>", "", html_report(coverage(200))).replace("</body>", act)
    assert "<title>1|true|1|1 of 200 servers|200|0</title>" in opened(page).dom


@needs_chromium
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("days", [30, 90])
def test_nothing_is_wider_than_the_screen(width: int, days: int) -> None:
    found = coverage(10, name="a-name-" * 20)
    inner = html_report(found, check(found, [Kept(2)]), days=days)
    page = (
        f'<iframe style="border:0;width:{width}px;height:9000px" srcdoc="{escape(inner)}"></iframe>'
        "<script>"
        "onload = () => { const it = document.querySelector('iframe').contentDocument;"
        "document.title = it.documentElement.scrollWidth + '|'"
        " + it.querySelectorAll('.servers > li').length; };</script>"
    )
    assert f"<title>{width}|10</title>" in opened(page, "--window-size=1600,1000").dom


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast_in_light_and_dark(scheme: str) -> None:
    act = """<script>
    const light = (color) => {
      const [r, g, b] = color.match(/[0-9.]+/g).map((c) => (c / 255 <= 0.03928
        ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
      for (; node; node = node.parentElement) {
        const color = getComputedStyle(node).backgroundColor;
        if (!color.startsWith("rgba(0, 0, 0, 0")) return color;
      }
    };
    let least = 99;
    for (const node of document.querySelectorAll("body *:not(svg *, script)")) {
      const two = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
      least = Math.min(least, (two[0] + 0.05) / (two[1] + 0.05));
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    document.title = `${dark} ${least >= 4.5} ${least}`;
    </script></body>"""
    found = coverage(10)
    page = re.sub(r"<meta http-equiv.*?>", "", html_report(found, check(found, [Kept(2)])))
    chosen = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    dom = opened(page.replace("</body>", act), chosen).dom
    assert f"<title>{'true' if scheme == 'dark' else 'false'} true" in dom


# --- The command ---------------------------------------------------------------------------------


async def test_the_command_writes_the_page(fake: FakeVPS, run: Here, tmp_path: Path) -> None:
    file = tmp_path / "backups.html"
    fake.add_server(9, EVIL)
    ended = await run("report", "--html", str(file), "--kept", "9", "--days", "90", fake=fake)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == (
        f"1 never, 3 ok; 1 breaks the rule that the newest good backup is at most 24 hours old; "
        f"4 break the rule that at least 9 good backups are kept; written to {file}\n"
    )
    assert file.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert os.listdir(tmp_path) == ["backups.html"]  # noqa: PTH208  # in an async test


async def test_a_page_is_replaced_in_one_step_and_keeps_its_permissions(
    fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    file = tmp_path / "backups.html"
    file.write_text("old")
    file.chmod(0o640)
    with file.open() as reader:
        assert (await run("report", "--html", str(file), fake=fake)).code == 0
        assert reader.read() == "old"
    assert file.stat().st_mode & 0o777 == 0o640
