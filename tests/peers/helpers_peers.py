"""Start other people's programs, play calls through them, and count what the origin saw."""

import asyncio
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from attrs import define, field

from vpsbackups_async import BackupsClient, CreateOutcomeUnknownError, fan_out
from vpsbackups_async.testing import FakeVPS

TALLY = "tally"
"""The name of a test's user property with its `Tally`."""

SBIN = "/usr/sbin:/usr/local/sbin"
"""Where servers are installed; often on root's PATH only."""


def program(name: str) -> str:
    """The path of a program; skips the test if it is not installed."""
    found = shutil.which(name) or shutil.which(name, path=SBIN)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


Record = Callable[[object], None]
"""Notes what a test counted, for the summary at the end of the run."""


class Start(Protocol):
    """Starts a program that listens on a port of 127.0.0.1."""

    async def __call__(
        self, command: Sequence[str], port: int, **environment: str
    ) -> "subprocess.Popen[bytes]":
        """Return once the program listens; raises RuntimeError if it does not."""
        ...


def started(running: "list[subprocess.Popen[bytes]]", log: Path) -> Start:
    """A `Start` that adds each process to `running` and writes its output to `log`."""

    async def start(
        command: Sequence[str], port: int, **environment: str
    ) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: ASYNC220  # returns at once
                command,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        running.append(process)
        for _ in range(500):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return process
            if process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        said = log.read_text()[-2000:]  # noqa: ASYNC240  # the test ends here
        raise RuntimeError(f"{command[0]} does not listen on port {port}: {said}")

    return start


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that was started here, gently at first."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@define
class Tally:
    """What became of calls, and what the origin counted.

    `requests` were sent by the client, `arrived` came to the origin. `refused` counts the calls
    that ended with an error, `unknown` the creates among them whose outcome is unknown. `doubled`
    creates and restores were carried out twice; `lost` calls succeeded, but not at the origin, or
    are creates that failed, but were carried out.
    """

    calls: Mapping[str, int]
    requests: int = 0
    arrived: int = 0
    doubled: int = 0
    lost: int = 0
    unknown: int = 0
    refused: int = 0
    problems: list[str] = field(factory=list, repr=False)
    """What must not have happened: each failed call, and what was doubled or lost."""


class Calls:
    """Calls of all kinds on the servers of `origin`, each with its own server or backup.

    `creates` and the others are the numbers of calls. Servers are used from 1 on.
    """

    def __init__(
        self,
        origin: FakeVPS,
        *,
        lists: int = 0,
        creates: int = 0,
        deletes: int = 0,
        restores: int = 0,
    ) -> None:
        self._origin = origin
        self._counts = {
            "list": lists, "create": creates, "delete": deletes, "restore": restores
        }  # fmt: skip
        # Too old to be taken for the backup of a create.
        before = datetime.now(UTC) - timedelta(hours=1)
        self._backup_ids = {
            (verb, number): origin.add_backup(number, created_at=before)["id"]
            for verb in ("delete", "restore")
            for number in range(1, self._counts[verb] + 1)
        }

    async def play(
        self,
        client: BackupsClient,
        *,
        together: int = 64,
        between: Callable[[], Awaitable[object]] | None = None,
    ) -> Tally:
        """Make all calls in a random order, at most `together` at once, and count.

        `between` is awaited before each call.
        """
        calls = [(verb, n) for verb, count in self._counts.items() for n in range(1, count + 1)]
        random.Random(7).shuffle(calls)

        async def make(call: tuple[str, int]) -> Any:
            if between is not None:
                await between()
            return await self.make(client, *call)

        tally = Tally(self._counts)
        succeeded: dict[tuple[str, int], Any] = {}
        async for outcome in fan_out(make, calls, concurrency=together):
            if outcome.error is None:
                succeeded[outcome.key] = outcome.value
            else:
                verb, number = outcome.key
                tally.refused += 1
                tally.unknown += isinstance(outcome.error, CreateOutcomeUnknownError)
                tally.problems.append(f"{verb} {number}: {outcome.error!r}")
        tally.requests = client.stats.requests
        tally.arrived = len(self._origin.requests)
        self._compare(tally, succeeded)
        return tally

    async def make(self, client: BackupsClient, verb: str, number: int) -> Any:
        """Make one of the calls."""
        match verb:
            case "list":
                server_id = (number - 1) % 600 + 1
                backups = await client.list(server_id=server_id, backup_type="automatic").collect()
                assert [one.server.id for one in backups] == [server_id] * 2
                return backups
            case "create":
                return await client.create(number, description=_description(number))
            case "delete":
                return await client.delete(self._backup_ids[verb, number])
            case _:
                return await client.restore(number, self._backup_ids[verb, number])

    def _compare(self, tally: Tally, succeeded: Mapping[tuple[str, int], Any]) -> None:
        made: dict[str, list[int]] = {}
        for backup in self._origin.backups:
            made.setdefault(backup["description"], []).append(backup["id"])
        restored = Counter(self._origin.restores)
        for (verb, number), value in succeeded.items():
            if verb == "create":
                there = value.id in made.get(_description(number), ())
            elif verb == "delete":
                there = self._backup_ids[verb, number] not in made.get("", ())
            else:
                there = verb == "list" or (number, self._backup_ids[verb, number]) in restored
            if not there:
                tally.lost += 1
                tally.problems.append(f"{verb} {number} succeeded, but the origin knows nothing")
        for number in range(1, self._counts["create"] + 1):
            times = len(made.get(_description(number), ()))
            if times > 1:
                tally.doubled += 1
                tally.problems.append(f"create {number} was carried out {times} times")
            if times and ("create", number) not in succeeded:
                tally.lost += 1
                tally.problems.append(f"create {number} failed, but was carried out")
        for (server_id, _), times in restored.items():
            if times > 1:
                tally.doubled += 1
                tally.problems.append(f"restore {server_id} was carried out {times} times")


def _description(number: int) -> str:
    return f"create {number}"
