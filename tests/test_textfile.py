"""The coverage as metrics: newest successes only, no made-up numbers, written in one step."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import Here
from helpers_retention import NOW, backup
from prometheus_client.parser import text_string_to_metric_families

from vpsbackups_async import Server, ServerError
from vpsbackups_async.audit import Coverage, cover
from vpsbackups_async.metrics import write_textfile
from vpsbackups_async.testing import FakeVPS


def coverage(name: str = "web") -> Coverage:
    good = backup(NOW - timedelta(hours=2), size_mb=4000, description="[keep]")
    failed = backup(NOW - timedelta(hours=1), status="failed")
    lists: dict[int, Any] = {1: [good, failed], 2: [], 3: ServerError(500)}
    servers = {number: Server(number, name) for number in lists}
    return cover(servers, lists, NOW, rpo=timedelta(days=1))


def samples(file: Path) -> dict[str, float]:
    """The value of each sample by its name and labels but the server's name."""
    found = {}
    for family in text_string_to_metric_families(file.read_text("utf-8")):
        for sample in family.samples:
            labels = [value for label, value in sample.labels.items() if label != "name"]
            found[" ".join([sample.name.removeprefix("vpsbackups_"), *labels])] = sample.value
    return found


def test_a_server_has_its_last_success_its_state_its_slots_and_its_size(tmp_path: Path) -> None:
    write_textfile(coverage(), tmp_path / "backups.prom")
    found = samples(tmp_path / "backups.prom")
    assert found == {
        "audit_timestamp_seconds": NOW.timestamp(),
        "rpo_seconds": 86_400,
        **{f"servers {state}": 0 for state in ("failing", "stuck", "stale", "running")},
        **{f"servers {state}": 1 for state in ("never", "unknown", "ok")},
        "server_state 1 ok": 1,
        "server_state 2 never": 1,
        "server_state 3 unknown": 1,
        "last_success_timestamp_seconds 1": NOW.timestamp() - 7200,
        "last_success_age_seconds 1": 7200,
        "slots_used 1": 2,
        "slots_used 2": 0,
        "pinned 1": 1,
        "pinned 2": 0,
        "size_megabytes 1": 4000,
    }


@pytest.mark.parametrize("name", ['a"b\\c\nd{}', "日本", "\ud800", ""])
def test_any_name_gives_a_file_that_can_be_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / "backups.prom"
    write_textfile(coverage(name), file)
    assert samples(file)["server_state 2 never"] == 1


def test_the_file_is_replaced_in_one_step_and_stays_if_that_fails(tmp_path: Path) -> None:
    file = tmp_path / "backups.prom"
    file.write_text("old")
    with file.open() as reader:
        write_textfile(coverage(), file)
        assert reader.read() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["backups.prom"]
    with pytest.raises(OSError, match="missing"):
        write_textfile(coverage(), tmp_path / "missing" / "backups.prom")


async def test_the_audit_command_writes_the_file(fake: FakeVPS, run: Here, tmp_path: Path) -> None:
    file = tmp_path / "backups.prom"
    ended = await run("audit", "--rpo", "24h", "--prometheus", str(file), fake=fake)
    assert ended.code == 0
    assert samples(file)["servers ok"] == 3


def test_without_the_extra_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from vpsbackups_async.cli import main\n"
        "sys.exit(main(['audit', '--rpo', '1d', '--prometheus', 'x.prom']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'vpsbackups-async[metrics]'" in done.stderr
