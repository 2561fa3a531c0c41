"""`stacked=True` decides as `borg prune` does, except for two differences by intent.

borg keeps the oldest archive for each rule that finds fewer than its number, and counts `within`
from now.
"""

import os
import random
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from attrs import evolve
from helpers_pruners import CHANGES, HOUR, RULES, counts, program, rules_of, times

from vpsbackups_async import Retention

pytestmark = pytest.mark.pruners

ARCHIVES = 12
HISTORIES = 8
"""Each has about six in ten of the archives, and a policy."""

SAID = re.compile(r"(?:Keeping archive \(rule: (?P<rule>\S+) #\d+\)|Would prune):\s+(?P<name>\S+)")
OPTIONS = {rule: f"--keep-{rule}" for rule in RULES}


class Archive(NamedTuple):
    """An archive by its time, and the histories that it belongs to."""

    at: datetime
    histories: list[int]

    @property
    def name(self) -> str:
        return f"{self.at:%Y%m%dT%H%M}." + "".join(f"{number}." for number in self.histories)


class Borg:
    """A local repository whose archives have the times that they are given."""

    def __init__(self, folder: Path) -> None:
        self.program = program("borg")
        self.folder = folder
        version = subprocess.run([self.program, "--version"], capture_output=True, check=True)
        if not version.stdout.startswith(b"borg 1."):
            pytest.skip(f"only compared with borg 1, not {version.stdout.decode().strip()}")
        self.run("init", "--encryption=none", "repository")
        (folder / "file").write_text("text")

    def run(self, *arguments: str, zone: str = "UTC") -> str:
        environment = {
            **os.environ,
            "BORG_BASE_DIR": str(self.folder),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "TZ": zone,
        }
        command = [self.program, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def add(self, archive: Archive) -> None:
        time = f"--timestamp={archive.at:%Y-%m-%dT%H:%M:%S}"
        self.run("create", time, f"repository::{archive.name}", "file")

    def prune(self, history: int, policy: Retention, hours: int) -> dict[datetime, str]:
        """For each time of a history the rule that keeps the archive; empty where it would go."""
        options = [f"{OPTIONS[rule]}={n}" for rule in RULES if (n := getattr(policy, rule))]
        if hours:
            options.append(f"--keep-within={hours}H")
        glob = f"--glob-archives=*.{history}.*"
        said = self.run(
            "prune", "--dry-run", "--list", glob, *options, "repository", zone=policy.tz
        )
        return {
            datetime.strptime(found["name"].partition(".")[0], "%Y%m%dT%H%M").replace(tzinfo=UTC): (
                found["rule"] or ""
            ).replace("secondly", "last")
            for found in SAID.finditer(said)
        }


def hours_that_reach(draw: random.Random, made: list[datetime], now: datetime) -> int:
    """Hours back from now that reach into a history, and end at none of its backups."""
    least = (now - made[-1]) // HOUR + 2
    tries = (least + draw.randrange(1500) for _ in range(100))
    return next(
        hours
        for hours in tries
        if all(abs(now - hours * HOUR - at) > timedelta(minutes=10) for at in made)
    )


@pytest.mark.parametrize("zone", CHANGES)
def test_as_borg_prune_on_random_histories_and_policies(tmp_path: Path, zone: str) -> None:
    borg = Borg(tmp_path)
    draw = random.Random(zone)
    candidates = {at for _ in range(4) for at in times(draw, zone)}
    archives = [
        Archive(at, [number for number in range(HISTORIES) if draw.random() < 0.6])
        for at in draw.sample(sorted(candidates), ARCHIVES)
    ]
    for archive in archives:
        borg.add(archive)
    compared: Counter[str] = Counter()
    for number in range(HISTORIES):
        made = sorted(archive.at for archive in archives if number in archive.histories)
        policy = Retention(**counts(draw), tz=zone)
        now = datetime.now(UTC)
        hours = draw.choice([0, 0, hours_that_reach(draw, made, now)])
        theirs = borg.prune(number, policy, hours)
        if hours:
            policy = evolve(policy, within=made[-1] - (now - hours * HOUR))
        compared.update(compare(rules_of(policy, made), theirs, made[0]))
    assert compared["kept"] > HISTORIES
    assert compared["deleted"] > HISTORIES


def compare(
    ours: dict[datetime, set[str]], theirs: dict[datetime, str], oldest: datetime
) -> Counter[str]:
    """How many archives borg keeps and deletes as we do, and keeps merely as the oldest one."""
    counted: Counter[str] = Counter()
    assert ours.keys() == theirs.keys()
    for at, rule in theirs.items():
        if rule.endswith("[oldest]"):
            assert at == oldest
            counted["oldest"] += 1
        else:
            assert ours[at] == ({rule} if rule else set()), (at, ours, theirs)
            counted["kept" if rule else "deleted"] += 1
    return counted
