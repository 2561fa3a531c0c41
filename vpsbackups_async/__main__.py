"""`python -m vpsbackups_async`: the demo against a server of its own, and a plain listing."""

import argparse
import asyncio
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
        sys.stderr.close()
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
    listing.add_argument("--server", type=int, metavar="ID", help="only this server's")
    listing.add_argument("--type", choices=["manual", "automatic"], help="only these")
    return parser


async def _list(server_id: int | None, backup_type: str | None) -> int:
    async with BackupsClient() as client:
        async for backup in client.list(server_id=server_id, backup_type=backup_type):
            print(_row(backup), flush=True)
    return 0


def _row(backup: Backup) -> str:
    size = "-" if backup.size_mb is None else f"{backup.size_mb} MB"
    return (
        f"{backup.id:>8}  {backup.server.id:>7} {backup.server.name:<16} {backup.backup_type:<9} "
        f"{backup.status:<11} {size:>10}  {backup.created_at:%Y-%m-%d %H:%M}  {backup.description}"
    )


def _seconds(backup: dict[str, object]) -> float:
    """How long the demo's server takes for a backup: one to four seconds."""
    number = backup["id"]
    return 1.0 + (number * 7 % 13) / 4 if isinstance(number, int) else 1.0


async def demo() -> int:
    """List, back up 25 servers at once and wait for all, restore one, delete one."""
    async with (
        FakeVPS(servers=SERVERS, backups=2, backup_seconds=_seconds) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        print(f"A VPS.org of our own with {SERVERS} servers listens on {fake.url}.\n")
        kinds: Counter[str] = Counter()
        async for backup in client.list(page_size=20):
            kinds[str(backup.backup_type)] += 1
        print(f"It holds {kinds.total()} backups: {dict(kinds)}, read page by page.\n")

        print(f"Backing up all {SERVERS} servers at once, and waiting until they are completed:")
        made = await _back_up(client)
        if len(made) < SERVERS:
            return 1

        oldest, newest = made[0], made[-1]
        restored = await client.restore(newest.server.id, newest.id)
        print(f"\nRestoring {newest.server.name} from backup {newest.id}: {restored.message}")
        await client.delete(oldest.id)
        print(f"Deleted backup {oldest.id} of {oldest.server.name}.\n")

        polls = fake.count("GET") - fake.count("GET", "page_size=20")
        print(
            f"{len(made)} of {SERVERS} backups completed, {sum(b.size_mb or 0 for b in made)} MB."
        )
        print(
            f"{client.stats.requests} requests in all; the {SERVERS} waits needed {polls} looks at "
            f"the list between them."
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
        print(
            f"  {seconds:4.1f} s [{bar}] {len(made):>2}/{SERVERS}  {backup.server.name}: backup "
            f"{backup.id} {backup.status}, {backup.size_mb} MB"
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
