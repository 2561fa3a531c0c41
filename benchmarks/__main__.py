"""`python -m benchmarks` runs all, with names some of them; fails if a target is missed."""

import argparse
import logging
import sys
import time

from benchmarks import fleet, limits, memory, redis_limit, soak, waiting
from benchmarks._table import Verdict

BENCHMARKS = {
    "waiting": waiting.run,
    "memory": memory.run,
    "fleet": fleet.run,
    "limits": limits.run,
    "redis_limit": redis_limit.run,
    "soak": soak.run,
}


def main() -> int:
    """0 if every target was met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    logging.getLogger("vpsbackups_async").setLevel(logging.ERROR)  # the faults are on purpose
    verdict = Verdict()
    for name in names or BENCHMARKS:
        began = time.perf_counter()
        print(f"== {name}", flush=True)
        BENCHMARKS[name](verdict)
        print(f"-- {name}: {time.perf_counter() - began:.0f} s\n", flush=True)
    return 0 if verdict.met else 1


if __name__ == "__main__":  # a benchmark's server process loads this module too
    sys.exit(main())
