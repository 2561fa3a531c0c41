"""Numbers on the command line: plain decimal digits, and nothing that is rounded or guessed."""

from collections.abc import Iterator

import pytest
from cyclopts import App

from vpsbackups_async.cli import main
from vpsbackups_async.cli.app import app
from vpsbackups_async.cli.text import seconds_of
from vpsbackups_async.testing import FakeVPS


def numbers(commands: App, *words: str) -> Iterator[tuple[tuple[str, ...], type]]:
    """Each option of all commands that takes a number, and the type of that."""
    for name in (name for name in commands if not name.startswith("-")):
        command = commands[name]
        if command.default_command is None:
            yield from numbers(command, *words, name)
            continue
        for argument in command.assemble_argument_collection():
            for kind in (int, float):
                if argument.hint in {kind, kind | None}:
                    yield (*words, name, argument.name), kind


NUMBERS = list(numbers(app))
NEEDED = {"audit": ("--rpo", "24h"), "report": ("--html", "backups.html")}
"""What a command must have, for what is missing is told first."""


def test_all_options_that_take_numbers_are_known() -> None:
    assert len(NUMBERS) >= 20
    assert (("prune", "--max-deletions"), int) in NUMBERS
    assert (("run", "work", "--rate"), float) in NUMBERS


@pytest.mark.parametrize(
    "given", ["1.5", "2.0", "1_0", "1e1", "0x10", "+1", " 1", "٣", "", "9" * 19]
)
@pytest.mark.parametrize("words", [words for words, kind in NUMBERS if kind is int], ids=" ".join)
def test_what_is_no_whole_number_is_refused_and_named(
    words: tuple[str, ...], given: str, capfd: pytest.CaptureFixture
) -> None:
    *command, option = words
    assert main([*command, f"{option}={given}", *NEEDED.get(command[0], ())]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {option} takes a whole number, not {given!r}\n")


@pytest.mark.parametrize("given", ["1_0", "1e1", "nan", "inf", ".5", "1.", "+1", "٣", "0x1p0"])
@pytest.mark.parametrize("words", [words for words, kind in NUMBERS if kind is float], ids=" ".join)
def test_what_is_no_number_is_refused_and_named(
    words: tuple[str, ...], given: str, capfd: pytest.CaptureFixture
) -> None:
    *command, option = words
    assert main([*command, f"{option}={given}", *NEEDED.get(command[0], ())]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {option} takes a number such as 20 or 0.5, not {given!r}\n")


@pytest.mark.parametrize(
    "rules", ["daily=1.5", "daily=1_0", "daily=٣", "daily=-1", "daily=" + "9" * 5000]
)
def test_a_policy_of_rules_has_whole_numbers(rules: str, capfd: pytest.CaptureFixture) -> None:
    words = ["run", "submit", "n", "-s", "1", "--job", "j", "--rotate", rules]
    assert main(words) == 2
    assert "is no policy" in capfd.readouterr().err


def test_a_time_has_plain_digits() -> None:
    assert seconds_of("3h") == 10_800
    assert seconds_of("٣h") is None


async def test_no_more_is_deleted_than_a_whole_number_allows(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    async with FakeVPS(servers=1, backups=4) as fake:
        monkeypatch.setenv("VPS_API_TOKEN", fake.token)
        monkeypatch.setenv("VPS_API_URL", fake.url)
        words = ["prune", "-s", "1", "--keep-last", "2", "--apply", "--max-deletions", "1.5"]
        assert main(words) == 2
        assert fake.count() == 0
    assert "--max-deletions takes a whole number, not '1.5'" in capfd.readouterr().err
