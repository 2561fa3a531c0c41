"""`python -m benchmarks [NAME ...]` runs the named benchmarks, or all; fails on a missed target."""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import (
    audits,
    creates,
    decoding,
    durable,
    fleet,
    fleet_waits,
    imports,
    instructions,
    limits,
    memory,
    prunes,
    redis_limit,
    sizes,
    soak,
    speed,
    streams,
    waiting,
)
from benchmarks._table import Verdict, table

BENCHMARKS = {
    "speed": speed.run,
    "decoding": decoding.run,
    "streams": streams.run,
    "waiting": waiting.run,
    "creates": creates.run,
    "fleet": fleet.run,
    "fleet_waits": fleet_waits.run,
    "audit": audits.run,
    "prune": prunes.run,
    "imports": imports.run,
    "instructions": instructions.run,
    "memory": memory.run,
    "limits": limits.run,
    "redis_limit": redis_limit.run,
    "durable": durable.run,
    "sizes": sizes.run,
    "soak": soak.run,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures there, beside those of other benchmarks on this machine",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, as .svg or .png")
    parser.add_argument(
        "--smoke", action="store_true", help="run on a small scale, to see that the work is done"
    )
    return parser


def _beside_others(said: dict[str, Any], file: Path) -> dict[str, Any]:
    """The figures of this run, and those of the file that it did not measure."""
    known = json.loads(file.read_text("utf-8")) if file.exists() else said
    if known["machine"] != said["machine"]:
        return said

    def merged(part: str, name: str) -> list[Any]:
        measured = {one[name]: one for one in said[part]}
        kept = [measured.pop(one[name], one) for one in known[part]]
        return [*kept, *measured.values()]

    return {**said, "rows": merged("rows", "what"), "curves": merged("curves", "title")}


def main() -> int:
    """Run the benchmarks; return 0 if every target was met, or in a smoke run all work was done."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    # The injected faults cause warnings.
    logging.getLogger("vpsbackups_async").setLevel(logging.ERROR)
    verdict = Verdict(smoke=options.smoke)
    for name in options.names or BENCHMARKS:
        began = time.perf_counter()
        print(f"== {name}", flush=True)
        BENCHMARKS[name](verdict)
        print(f"-- {name}: {time.perf_counter() - began:.0f} s\n", flush=True)
    said = verdict.as_json()
    print(f"{said['machine']}\n\n{table(verdict.rows)}")
    if options.json is not None:
        said = _beside_others(said, options.json)
        options.json.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if options.plot is not None:
        from benchmarks.report import draw  # imported here because matplotlib is slow to import

        draw(said, options.plot)
    return 0 if verdict.met else 1


if __name__ == "__main__":  # the server processes import this module too
    sys.exit(main())
