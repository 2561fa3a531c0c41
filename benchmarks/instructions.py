"""S12 and S13: the instructions that a request takes, counted by valgrind's callgrind.

A count repeats to about a thousandth, whatever else the machine does. Each side runs with few and
with more requests, one at a time and for lists 50 at once; the difference leaves out what its start
takes. Beside them stand the page faults of a request, which cost time but no instructions of the
process.
"""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trustme

from benchmarks._server import serving
from benchmarks._sides import AT_ONCE, TOKEN
from benchmarks._table import Verdict

_SERVER = 12345
_FEW = 100
_MORE = 500

Do = Callable[[], Awaitable[object]]
"""Sends one request and takes its answer apart."""

LISTS = {"list of 1": 1, "list of 100": 100}
VERBS = ("create", "delete", "a look of a wait")
_TARGETS = {"list of 1": ("S12", 0.90), "list of 100": ("S13", 0.72)}
_MOST_ABOVE_BARE = 55_000


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[Callable[[str], Do]]:
    from vpsbackups_async import BackupRef, BackupsClient  # each side imports only its own library

    async with BackupsClient(TOKEN, base_url=url) as client:

        def do(work: str) -> Do:
            async def list_all() -> None:
                async for _ in client.list(server_id=_SERVER, page_size=LISTS[work]):
                    pass

            verbs: dict[str, Do] = {
                "create": lambda: client.create(_SERVER),
                "delete": lambda: client.delete(1),
                "a look of a wait": lambda: client.wait(BackupRef(1, _SERVER)),
            }
            return list_all if work in LISTS else verbs[work]

        yield do


@asynccontextmanager
async def _loop(url: str) -> AsyncIterator[Callable[[str], Do]]:
    """A plain aiohttp loop, as a user would write it."""
    import aiohttp

    backups = f"{url}/api/v1/backups/"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        def do(work: str) -> Do:
            async def list_all() -> None:
                params = {"server_id": _SERVER, "page_size": LISTS[work]}
                async with session.get(backups, params=params) as response:
                    response.raise_for_status()
                    for _ in (await response.json())["results"]:
                        pass

            async def create() -> object:
                async with session.post(backups, json={"server_id": _SERVER}) as response:
                    response.raise_for_status()
                    return await response.json()

            async def delete() -> None:
                async with session.delete(f"{backups}1/") as response:
                    response.raise_for_status()

            async def look() -> object:
                params = {"server_id": _SERVER, "page_size": 100}
                async with session.get(backups, params=params) as response:
                    response.raise_for_status()
                    found = (await response.json())["results"]
                    return next(one for one in found if one["id"] == 1)["status"]

            verbs = {"create": create, "delete": delete, "a look of a wait": look}
            return list_all if work in LISTS else verbs[work]

        yield do


@asynccontextmanager
async def _bare(url: str) -> AsyncIterator[Callable[[str], Do]]:
    """What no client on aiohttp can do without: the request, its bytes, and their decoding."""
    import aiohttp
    import msgspec

    from vpsbackups_async import Backup

    decoder = msgspec.json.Decoder(msgspec.defstruct("Doc", [("results", list[Backup])]))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        def do(work: str) -> Do:
            target = f"{url}/api/v1/backups/?server_id={_SERVER}&page_size={LISTS[work]}"

            async def list_all() -> None:
                async with session.get(target) as response:
                    decoder.decode(await response.read())

            return list_all

        yield do


SIDES = {"ours": _ours, "loop": _loop, "bare": _bare}


async def _send(side: str, url: str, work: str, requests: int, together: int = 1) -> None:
    async with SIDES[side](url) as doing:
        do = doing(work)

        async def some() -> None:
            for _ in range(requests // together):
                await do()

        if together == 1:
            await some()
        else:
            await asyncio.gather(*(some() for _ in range(together)))


def _counted(
    side: str, url: str, work: str, requests: int, *, uvloop: bool, together: int = 1
) -> int:
    """The instructions of a process that sends this many requests."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        order = {
            "side": side,
            "url": url,
            "work": work,
            "requests": requests,
            "together": together,
        }
        subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"),
                *(sys.executable, "-m", "benchmarks.instructions"),
                json.dumps({**order, "uvloop": uvloop}),
            ],
            check=True,
            capture_output=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"},
        )
        with out.open(encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("totals:"))


def _cost(side: str, url: str, work: str, *, uvloop: bool, together: int = 1) -> float:
    """The instructions of one request."""
    # Together, the first requests make the connections, and the limiter learns of the server.
    few, more = (_FEW, _MORE) if together == 1 else (_MORE, 5 * _MORE)
    first = _counted(side, url, work, few, uvloop=uvloop, together=together)
    last = _counted(side, url, work, more, uvloop=uvloop, together=together)
    return (last - first) / (more - few)


def _faults(verdict: Verdict, side: str, url: str, work: str) -> float:
    """The page faults of one request, by the kernel's count, on asyncio's own loop."""

    def counted(requests: int) -> int:
        order = {"side": side, "url": url, "work": work, "requests": requests, "uvloop": False}
        command = [sys.executable, "-m", "benchmarks.instructions", json.dumps(order)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    few, more = verdict.size(_FEW, 1), verdict.size(10 * _MORE, 5)
    return (counted(more) - counted(few)) / (more - few)


def run(verdict: Verdict) -> None:
    """Count lists beside a plain loop and bare aiohttp, and the other verbs beside the loop."""
    if shutil.which("valgrind") is None:
        print("not run: valgrind is not on the PATH (Debian's package valgrind)", flush=True)
        return
    with serving(total=1) as url:
        for work in LISTS:
            ours, loop = (_faults(verdict, side, url, work) for side in ("ours", "loop"))
            verdict.record(
                f"page faults of a request, {work}",
                measured=f"{ours:.2f} against {loop:.2f}",
                target="<= 0.5",
                met=ours <= 0.5,
                ours=ours,
                loop=loop,
                unit="page faults",
            )
        if verdict.smoke:  # the start alone takes each process many seconds there
            count = _counted("ours", url, "list of 1", 1, uvloop=False)
            print(f"ours: {count:,} instructions for the start and one request", flush=True)
            return
        for uvloop in (False, True):
            for work in LISTS:
                _count_list(verdict, url, work, uvloop=uvloop)
                sides = [
                    _cost(side, url, work, uvloop=uvloop, together=AT_ONCE)
                    for side in ("ours", "loop")
                ]
                title = f"{_title(work, uvloop=uvloop)}, {AT_ONCE} at once"
                verdict.note(title, *sides, unit="instructions")
            for work in VERBS:
                ours = _cost("ours", url, work, uvloop=uvloop)
                loop = _cost("loop", url, work, uvloop=uvloop)
                verdict.note(_title(work, uvloop=uvloop), ours, loop, unit="instructions")
    _count_over_tls(verdict)


def _count_over_tls(verdict: Verdict) -> None:
    """Count lists on a connection with TLS, once that is made."""
    with tempfile.TemporaryDirectory() as folder:
        authority, own = trustme.CA(), Path(folder) / "own.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
        trusted = Path(folder) / "trusted.pem"
        authority.cert_pem.write_to_path(trusted)
        os.environ["SSL_CERT_FILE"] = str(trusted)  # OpenSSL's own variable, for all sides
        try:
            with serving(total=1, certificate=own) as url:
                for uvloop in (False, True):
                    for work in LISTS:
                        ours = _cost("ours", url, work, uvloop=uvloop)
                        loop = _cost("loop", url, work, uvloop=uvloop)
                        title = f"{_title(work, uvloop=uvloop)}, TLS"
                        verdict.note(title, ours, loop, unit="instructions")
        finally:
            del os.environ["SSL_CERT_FILE"]


def _count_list(verdict: Verdict, url: str, work: str, *, uvloop: bool) -> None:
    ours, loop, bare = (_cost(side, url, work, uvloop=uvloop) for side in SIDES)
    name, target = _TARGETS[work]
    title = f"{name} {_title(work, uvloop=uvloop)}"
    verdict.compare(title, ours, loop, target, loop=loop, peers={"bare": bare}, unit="instructions")
    if LISTS[work] == 1:
        verdict.record(
            f"{title}, above bare aiohttp and msgspec",
            measured=f"{ours - bare:,.0f} instructions",
            target=f"<= {_MOST_ABOVE_BARE:,}",
            met=ours - bare <= _MOST_ABOVE_BARE,
            ours=ours - bare,
            unit="instructions",
        )


def _title(work: str, *, uvloop: bool) -> str:
    return f"{work}, {'uvloop' if uvloop else 'asyncio'}"


def main() -> None:
    """Send the requests that the command line asks for."""
    order = json.loads(sys.argv[1])
    if order.pop("uvloop"):
        import uvloop

        uvloop.run(_send(**order))
    else:
        asyncio.run(_send(**order))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


if __name__ == "__main__":
    main()
