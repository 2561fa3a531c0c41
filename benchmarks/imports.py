"""S9: how much more CPU time `import vpsbackups_async` takes than `import aiohttp`."""

import subprocess
import sys

from benchmarks._server import pin
from benchmarks._table import Verdict

_ROUNDS = 25
_TIMED = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"


def _import_ms(module: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(module)]
    return 1e3 * float(subprocess.run(command, check=True, capture_output=True).stdout)


def run(verdict: Verdict) -> None:
    """Import both in new processes, in turn; the best of several rounds counts."""
    pin(0)
    best = {"aiohttp": float("inf"), "vpsbackups_async": float("inf")}
    for _ in range(verdict.size(_ROUNDS, 1)):
        for module, least in best.items():
            best[module] = min(least, _import_ms(module))
    ours, theirs = best["vpsbackups_async"], best["aiohttp"]
    verdict.record(
        "S9 import vpsbackups_async",
        measured=f"{ours:.0f} ms, {ours - theirs:.0f} ms over import aiohttp",
        target="<= 50 ms over it",
        met=ours - theirs <= 50,
        ours=ours,
        peers={"aiohttp": theirs},
        unit="ms",
    )
