"""What is typed or read and cannot be used is told in plain words."""

from datetime import timedelta
from pathlib import Path

import pytest

from vpsbackups_async.audit.controls import span
from vpsbackups_async.cli import main
from vpsbackups_async.cli.ids import backup_refs, server_ids
from vpsbackups_async.models import BackupRef


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("audit --rpo 0s", "--rpo '0s' must be more than zero"),
        ("audit --rpo 0.5s", "--rpo '0.5s' must be at least a second"),
        ("run forget --older-than 0d", "--older-than '0d' must be more than zero"),
        ("list --since -1h", "--since '-1h' has a sign: give 1h for the moment so long ago"),
        ("list --since=-1h", "--since '-1h' has a sign: give 1h for the moment so long ago"),
        ("restore 1 --latest --before -2d", "--before '-2d' has a sign: give 2d"),
        ("list --since +1h", "--since '+1h' has a sign: give 1h"),
        ("list --token-file=", "--token-file is empty"),
        ("report --html=", "--html is empty"),
        ("audit --rpo 1d --prometheus=", "--prometheus is empty"),
        ("create 1 --not-made-to=", "--not-made-to is empty"),
        ("create 1 --not-made-to ", "--not-made-to is empty"),
        ("units ", "the path is empty"),
        ("run list --database=", "--database is empty"),
        ("run cancel nightly --account ", "--account is empty"),
        ("create \ufeff1", "'?1' is not the id of a server"),
        ("delete \x1b[2J", "'?[2J' is no backup"),
    ],
)
def test_an_argument_that_cannot_be_is_told_plainly(
    words: str, said: str, capfd: pytest.CaptureFixture
) -> None:
    assert main(words.split(" ")) == 2
    assert capfd.readouterr().err.startswith(f"error: {said}")


def test_a_mark_of_byte_order_is_no_part_of_the_first_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ids"
    file.write_bytes(b"\xef\xbb\xbf1\r\n2\r\n")
    assert server_ids([], str(file)) == [1, 2]
    assert backup_refs([], str(file)) == [BackupRef(1), BackupRef(2)]
    with file.open(encoding="utf-8") as given:
        monkeypatch.setattr("sys.stdin", given)
        assert server_ids([], "-") == [1, 2]


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=1.5), "1.5 hours"),
        (timedelta(hours=24), "24 hours"),
        (timedelta(minutes=30), "30 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=59, seconds=59), "60 minutes"),
        (timedelta(0), "0 minutes"),
        (timedelta(days=2), "2 days"),
        (timedelta(days=2.25), "2.2 days"),
    ],
    ids=str,
)
def test_a_span_is_in_the_unit_that_reads_best(duration: timedelta, text: str) -> None:
    assert span(duration) == text
