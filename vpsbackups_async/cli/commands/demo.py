"""Back up 25 servers of a server of its own; needs no account.

Usage: vpsbackups demo

  vpsbackups demo
"""

import asyncio
from collections import Counter
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.signals import run_in
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.models import Backup, Outcome, Progress
from vpsbackups_async.testing import FakeVPS

__all__ = ["SERVERS", "Board", "play", "run"]

SERVERS: Final = 25
_ACROSS: Final = 5


def run() -> int:
    """The exit code of the command, once it has ended."""
    with asyncio.Runner() as runner:
        return run_in(runner, play(Screen()))


async def play(screen: Screen, fake: FakeVPS | None = None) -> Exit:
    """Run the demo against a fake server, by default a new one with 25 servers; the exit code."""
    if fake is None:
        fake = FakeVPS(
            servers=SERVERS,
            backups=2,
            backup_seconds=lambda made: 1.0 + made["id"] * 7 % 25 / 10,
        )
    async with fake, BackupsClient(fake.token, base_url=fake.url) as client:
        say = screen.result
        say(f"A VPS.org API of its own listens on {fake.url}, with {SERVERS} servers.")
        kinds = Counter([str(backup.backup_type) async for backup in client.list(page_size=20)])
        held = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        say(f"It holds {kinds.total()} backups ({held}), read page by page.\n")

        say(f"Backing up all {SERVERS} servers at once, and waiting until they are completed:")
        read = fake.count("GET")
        made = await _back_up(screen, client)
        polls = fake.count("GET") - read
        if len(made) < SERVERS:
            return Exit.SOME_FAILED

        first, last = made[0], made[-1]
        restored = await client.restore(last.server.id, last.id, check=False)
        say(f"\nRestoring {last.server.name} from backup {last.id}; the API says:")
        say(f"  {restored.message}")
        await client.delete(first.id)
        say(f"Deleted backup {first.id} of {first.server.name}.\n")

        megabytes = sum(backup.size_mb or 0 for backup in made)
        say(f"{len(made)} of {SERVERS} backups completed, {megabytes} MB.")
        say(
            f"{client.stats.requests} requests in all: the {SERVERS} waits together needed "
            f"{polls}, for they share their looks at the list."
        )
    return Exit.FINE


async def _back_up(screen: Screen, client: BackupsClient) -> list[Backup]:
    made: list[Backup] = []
    board = Board()
    loop = asyncio.get_running_loop()
    began = loop.time()
    display = Display(
        screen, "Backing up", lambda: client.stats, draw=board.above, after=0, shown=screen.is_live
    )
    async with display:
        display.update(board.progress(0.0))
        fleet = client.fleet(range(1, SERVERS + 1), concurrency=SERVERS)
        outcome: Outcome[int, Backup]
        async for outcome in fleet.create(
            description="Demo",
            wait=True,
            backoff=ConstantBackoff(0.5),
            timeout=60,
        ):
            board.ended(outcome)
            # Not `on_progress`, which comes at intervals: the bar would differ from the cells.
            display.update(board.progress(loop.time() - began))
            if outcome.error is not None:
                screen.note(f"  server {outcome.key}: {outcome.error}")
                continue
            backup = outcome.unwrap()
            made.append(backup)
            if not screen.is_live:
                screen.result(_line(loop.time() - began, len(made), backup))
    if screen.is_live:
        screen.err.print(board.above(display.lines()))
    return made


def _line(seconds: float, count: int, backup: Backup) -> str:
    bar = "#" * count + "." * (SERVERS - count)
    return (
        f"  {seconds:4.1f} s [{bar}] {count:>2}/{SERVERS}  {backup.server.name}: backup "
        f"{backup.id} {backup.status}, {backup.size_mb} MB"
    )


class Board:
    """The state of all servers, five in a row."""

    def __init__(self) -> None:
        self._cells = {number: Text(f"{number:<4}running", "yellow") for number in _ALL}
        self._completed = self._failed = 0

    def ended(self, outcome: Outcome[int, Backup]) -> None:
        """Set the cell of a server to the end of its backup."""
        backup = outcome.value
        self._completed += outcome.ok
        self._failed += not outcome.ok
        self._cells[outcome.key] = (
            Text(f"{outcome.key:<4}failed", "red")
            if backup is None
            else Text(f"{outcome.key:<4}{backup.size_mb} MB", "green")
        )

    def progress(self, elapsed: float) -> Progress:
        """How far the cells are, so many seconds after the beginning."""
        done = self._completed + self._failed
        return Progress(done, self._completed, self._failed, SERVERS - done, SERVERS, elapsed)

    def above(self, lines: RenderableType) -> RenderableType:
        """The servers, and the progress lines below them."""
        cells = list(self._cells.values())
        rows = [cells[place : place + _ACROSS] for place in range(0, SERVERS, _ACROSS)]
        return Group(*(Text("", no_wrap=True).join(map(_padded, row)) for row in rows), "", lines)


_ALL: Final = range(1, SERVERS + 1)


def _padded(cell: Text) -> Text:
    shown = cell.copy()
    shown.pad_right(max(0, 15 - len(shown)))
    return shown
