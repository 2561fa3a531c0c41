"""`stacked=False` decides as `restic forget` does.

By intent we do not keep the oldest one where a rule finds fewer than its number, as restic does
since 0.16.
"""

import base64
import hashlib
import json
import os
import random
import subprocess
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from helpers_pruners import CHANGES, HOUR, RULES, counts, program, rules_of, times

from vpsbackups_async import Retention

pytestmark = pytest.mark.pruners

HISTORIES = 60
"""Histories in each zone."""
POLICIES = 12


class Restic:
    """A local repository, in which snapshots of any time are put without a backup.

    A backup would take half a second, and its `--time` could not say which of the two hours is
    meant when clocks are put back.
    """

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self.program = program("restic")
        self.run("init")
        key = json.loads(self.run("cat", "masterkey"))
        self.encrypt = base64.b64decode(key["encrypt"])
        self.mac_k = base64.b64decode(key["mac"]["k"])
        self.mac_r = base64.b64decode(key["mac"]["r"])

    def run(self, *arguments: str) -> bytes:
        command = [self.program, "--no-cache", "--repo", str(self.repository), *arguments]
        environment = {**os.environ, "RESTIC_PASSWORD": "restic", "TZ": "UTC"}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def add(self, host: str, at: datetime) -> None:
        """Write a snapshot: JSON under AES-256-CTR and Poly1305-AES, by restic's design.rst."""
        snapshot = {"time": at.isoformat(), "hostname": host, "paths": ["/"], "tree": "00" * 32}
        nonce = os.urandom(16)
        counter = Cipher(algorithms.AES(self.encrypt), modes.CTR(nonce)).encryptor()
        hidden = counter.update(json.dumps(snapshot).encode())
        block = Cipher(algorithms.AES(self.mac_k), modes.ECB()).encryptor()
        tag = Poly1305.generate_tag(self.mac_r + block.update(nonce), hidden)
        content = nonce + hidden + tag
        name = hashlib.sha256(content).hexdigest()
        (self.repository / "snapshots" / name).write_bytes(content)

    def forget(self, policy: Retention) -> dict[str, dict[datetime, set[str]]]:
        """For each host and time the rules that keep the snapshot; none where it would go."""
        options = [f"--keep-{rule}={count}" for rule in RULES if (count := getattr(policy, rule))]
        if policy.within:
            options.append(f"--keep-within={policy.within // HOUR}h")
        said = self.run("forget", "--dry-run", "--json", "--group-by=host", *options)
        return {group["host"]: _rules(group) for group in json.loads(said.splitlines()[0])}


def _rules(group: dict[str, Any]) -> dict[datetime, set[str]]:
    kept = {
        _time(reason["snapshot"]): {match.split()[0] for match in reason["matches"]} - {"oldest"}
        for reason in group["reasons"]
    }
    return kept | {_time(gone): set() for gone in group["remove"] or ()}


def _time(snapshot: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(snapshot["time"])


def test_as_restic_forget_on_random_histories_and_policies_in_several_zones(
    tmp_path: Path,
) -> None:
    restic = Restic(tmp_path)
    draw = random.Random(14)
    histories: dict[str, tuple[str, list[datetime]]] = {}
    for zone in CHANGES:
        for number in range(HISTORIES):
            made = times(draw, zone)
            histories[f"{zone}-{number}"] = (zone, made)
            for at in made:
                restic.add(f"{zone}-{number}", at.astimezone(ZoneInfo(zone)))
    compared: Counter[str] = Counter()
    for _ in range(POLICIES):
        within = draw.choice([None, None, draw.randrange(1, 2000) * HOUR])
        policy = Retention(**counts(draw), within=within, stacked=False)
        theirs = restic.forget(policy)
        for host, (zone, made) in histories.items():
            ours = rules_of(evolve(policy, tz=zone), made)
            assert ours == theirs[host], (policy, zone, made)
            compared["kept" if all(ours.values()) else "some deleted"] += 1
    assert compared.total() == len(CHANGES) * HISTORIES * POLICIES
    assert compared["some deleted"] > compared["kept"] > 100
