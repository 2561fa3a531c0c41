"""Makes the README's table and picture from the figures of a run.

`python -m benchmarks --json benchmarks/figures.json --plot benchmarks/figures.svg` measures and
draws; `python -m benchmarks.report benchmarks/figures.json [PICTURE ...]` prints the table and
draws the named pictures.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._table import amount

_INK = ("#1f6feb", "#8c959f")
_NAMES = {
    "ours": "this library",
    "loop": "plain aiohttp loop",
    "httpx_pydantic": "httpx + pydantic",
    "vps_mcp": "vps-mcp",
    "generated": "openapi-python-client",
}


ROWS = {
    "S1 a request": "CPU of a request for one backup",
    "a request on uvloop, 1 backup": "the same on uvloop",
    "S2 a request": "CPU of a request for 100 backups",
    "S3 the other clients": "the same, beside other clients",
    "S5 a stream of 1,000,000 backups": "memory to list 1,000,000 backups",
    "S6 200 pages, 20 ms a reply": "200 pages of 20 ms each, `prefetch=8`",
    "S7, exponential 5 to 30 s, 10,000": "requests for each of 10,000 backups that are waited for",
    "S8 CPU an item of 1,000,000": "CPU for each server of a fleet of 1,000,000",
    "S9 import": "import, in a new process",
    "S10 one of 100,000 waits, memory by rss": "memory of each of 100,000 waits",
    "S11 at 0.05 s a reply": "refused by a server that allows 30 requests a second",
}
"""The rows of the README's table: how each begins in a run, and what a newcomer reads there."""


def markdown(figures: Mapping[str, Any]) -> str:
    """A Markdown table of what a newcomer wants to know, followed by the machine."""
    lines = ["| | here | beside |", "|---|---:|---|"]
    for beginning, said in ROWS.items():
        for row in figures["rows"]:
            if not row["what"].startswith(beginning):
                continue
            unit = row["unit"]
            beside = [] if row["loop"] is None else [f"a plain loop {amount(row['loop'], unit)}"]
            beside += [
                f"{_NAMES.get(name, name)} {amount(cost, unit)}"
                for name, cost in row["peers"].items()
            ]
            ours = amount(row["ours"], unit).removesuffix(" requests")
            lines.append(f"| {said} | {ours} | {', '.join(beside)} |")
    return "\n".join([*lines, "", f"Measured on {figures['machine']}."])


def draw(figures: Mapping[str, Any], file: Path) -> None:
    """Draw bars of CPU time per request, and a line chart for each curve, into `file`."""
    import matplotlib as mpl  # imported here because it is slow to import

    mpl.use("agg")
    mpl.rcParams.update({"svg.hashsalt": "figures", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    bars = _bars(figures["rows"])
    figure, axes = plt.subplots(
        1, 1 + len(figures["curves"]), figsize=(4 + 4 * len(figures["curves"]), 3.2)
    )
    first, *others = [axes] if not figures["curves"] else list(axes)
    if bars:
        names = list(bars)[::-1]
        first.barh(names, [bars[name] for name in names], color=[_ink(name) for name in names])
        for place, name in enumerate(names):
            first.text(bars[name], place, f" {bars[name]:,.0f}", va="center")
        first.set_title("client CPU a request of 100 backups, µs")
        first.margins(x=0.15)
    for axis, curve in zip(others, figures["curves"], strict=True):
        for name, points in curve["series"].items():
            axis.plot(*zip(*points, strict=True), marker="o", label=name.replace("_", " "))
        axis.set_xscale("log")
        if curve["y"] == "ms":
            axis.set_yscale("log")
        axis.set_title(f"{curve['title']}, {curve['y']}")
        axis.set_xlabel(curve["x"])
        axis.legend()
    for axis in (first, *others):
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _bars(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """CPU time (µs) of a request for 100 backups, for each client."""
    found = {}
    for row in rows:
        if row["what"].startswith("S2"):
            found |= {_NAMES["ours"]: row["ours"], _NAMES["loop"]: row["loop"]}
        if row["what"].startswith("S3"):
            found |= {_NAMES[name]: cost for name, cost in row["peers"].items()}
    return found


def _ink(name: str) -> str:
    return _INK[0] if name == _NAMES["ours"] else _INK[1]


if __name__ == "__main__":
    read = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    print(markdown(read))
    for picture in sys.argv[2:]:
        draw(read, Path(picture))
