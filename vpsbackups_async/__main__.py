"""`python -m vpsbackups_async`: the demo against a server of its own, and a plain listing."""

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Sequence

from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import AuthenticationError, VPSBackupsError
from vpsbackups_async.models import Backup, Outcome
from vpsbackups_async.testing import FakeVPS

SERVERS = 25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 bad usage, 3 token refused."""
    options = _parser().parse_args(arguments)
    command = demo() if options.command == "demo" else _list(options.server, options.type)
    try:
        return asyncio.run(command)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`head`) has what it wanted. Python flushes once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (VPSBackupsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, AuthenticationError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vpsbackups_async", description="VPS.org backups from the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="the main job, against a server that runs in this process")
    listing = commands.add_parser(
        "list", help="the account's backups; the token comes from VPS_API_TOKEN"
    )
    listing.add_argument("--server", type=_server_id, metavar="ID", help="only this server's")
    listing.add_argument("--type", choices=["manual", "automatic"], help="only these")
    return parser


def _server_id(text: str) -> int:
    if not (text.isdecimal() and len(text) < 19 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a server, a positive number")
    return int(text)


def _say(line: str) -> None:
    """Print the line at once, with `?` for what the terminal cannot show or should not obey."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(char if char.isprintable() or char == "\n" else "?" for char in line)
    print(shown.encode(encoding, "replace").decode(encoding), flush=True)


async def _list(server_id: int | None, backup_type: str | None) -> int:
    async with BackupsClient() as client:
        async for backup in client.list(server_id=server_id, backup_type=backup_type):
            _say(_row(backup))
    return 0


def _row(backup: Backup) -> str:
    size = "-" if backup.size_mb is None else f"{backup.size_mb} MB"
    return (
        f"{backup.id:>8}  {backup.server.id:>7} {backup.server.name:<16} {backup.backup_type:<9} "
        f"{backup.status:<11} {size:>10}  {backup.created_at:%Y-%m-%d %H:%M}  "
        + " ".join(backup.description.split())
    ).rstrip()


def _seconds(backup: dict[str, object]) -> float:
    """How long the demo's server takes for a backup: one to four seconds."""
    number = backup["id"]
    return 1.0 + (number * 7 % 13) / 4 if isinstance(number, int) else 1.0


async def demo(server: FakeVPS | None = None) -> int:
    """List, back up 25 servers at once and wait for all, restore one, delete one.

    `server` is one of 25 servers to use instead of the usual one. The exit code, 1 if a backup
    failed.
    """
    async with (
        server or FakeVPS(servers=SERVERS, backups=2, backup_seconds=_seconds) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        _say(f"A VPS.org of our own with {SERVERS} servers listens on {fake.url}.\n")
        kinds: Counter[str] = Counter()
        async for backup in client.list(page_size=20):
            kinds[str(backup.backup_type)] += 1
        held = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        _say(f"It holds {kinds.total()} backups ({held}), read page by page.\n")

        _say(f"Backing up all {SERVERS} servers at once, and waiting until they are completed:")
        read = fake.count("GET")
        made = await _back_up(client)
        polls = fake.count("GET") - read
        if len(made) < SERVERS:
            return 1

        first, last = made[0], made[-1]
        restored = await client.restore(last.server.id, last.id)
        _say(f"\nRestoring {last.server.name} from backup {last.id}; the API says:")
        _say(f"  {restored.message}")
        await client.delete(first.id)
        _say(f"Deleted backup {first.id} of {first.server.name}.\n")

        size = sum(backup.size_mb or 0 for backup in made)
        _say(f"{len(made)} of {SERVERS} backups completed, {size} MB.")
        _say(
            f"{client.stats.requests} requests in all: the {SERVERS} waits together needed "
            f"{polls}, for they share their looks at the list."
        )
    return 0


async def _back_up(client: BackupsClient) -> list[Backup]:
    made: list[Backup] = []
    fleet = client.fleet(range(1, SERVERS + 1), concurrency=SERVERS)
    started = asyncio.get_running_loop().time()
    outcome: Outcome[int, Backup]
    async for outcome in fleet.create(
        description="Demo", wait=True, backoff=ConstantBackoff(0.5), timeout=60
    ):
        if not outcome.ok:
            print(f"  server {outcome.key}: {outcome.error}", file=sys.stderr)
            continue
        backup = outcome.unwrap()
        made.append(backup)
        seconds = asyncio.get_running_loop().time() - started
        bar = "#" * len(made) + "." * (SERVERS - len(made))
        _say(
            f"  {seconds:4.1f} s [{bar}] {len(made):>2}/{SERVERS}  {backup.server.name}: backup "
            f"{backup.id} {backup.status}, {backup.size_mb} MB"
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
