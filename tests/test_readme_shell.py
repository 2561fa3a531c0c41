"""What the README shows of the shell happens on a terminal as it stands there."""

import re
import shutil
from pathlib import Path

import pytest
from helpers_readme import README
from helpers_shell import Step, settled, steps_of, typed

from vpsbackups_async.testing import FakeVPS

TEXT = README.read_text("utf-8")
BLOCKS = re.findall(r"^```(?:text|console)\n(\$ .*?)^```", TEXT, re.DOTALL | re.MULTILINE)
STEPS = [step for block in BLOCKS for step in steps_of(block)]


@pytest.mark.timeout(300)  # a process for each command
@pytest.mark.fake_vps(
    servers={12345: "web-01", 12346: "web-02", 12347: "db-01"}, backups=2, backup_seconds=1.5
)
def test_the_commands_show_what_the_readme_shows(fake_vps: FakeVPS, tmp_path: Path) -> None:
    (tmp_path / "fleet.txt").write_text("12345\n12346\n12347\n")
    for step in STEPS:
        if "jq" in step.command and shutil.which("jq") is None:
            continue
        check(step, fake_vps, tmp_path)


def check(step: Step, fake_vps: FakeVPS, folder: Path) -> None:
    code, shown = typed(step.command, fake_vps, folder)
    assert code == 0, (step.command, shown)
    if step.shown:
        assert settled(shown) == settled(step.shown), step.command


@pytest.mark.fake_vps(
    servers={12345: "web-01", 12346: "web-02", 12347: "db-01"}, backup_seconds=0.1
)
def test_the_line_for_cron_rotates_every_server(fake_vps: FakeVPS, tmp_path: Path) -> None:
    (command,) = re.findall(r"^0 2 \* \* \* (vpsbackups .*)", TEXT, re.MULTILINE)
    code, shown = typed(command, fake_vps, tmp_path)
    assert (code, len(shown)) == (0, 3), shown
    assert fake_vps.count("POST", status=201) == 3
