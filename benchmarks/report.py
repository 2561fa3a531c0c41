"""Makes the README's table and picture from the figures of a run.

`python -m benchmarks --json benchmarks/figures.json --plot benchmarks/figures.svg` measures and
draws; `python -m benchmarks.report benchmarks/figures.json [PICTURE ...]` prints the table and
draws the named pictures.
"""

import json
import re
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


def markdown(figures: Mapping[str, Any]) -> str:
    """A Markdown table of the comparisons and the targets S1 to S11, followed by the machine."""
    lines = ["| | ours | plain loop | others | target |", "|---|---:|---:|---|---|"]
    for row in figures["rows"]:
        if row["loop"] is None and not re.match(r"S\d", row["what"]):
            continue
        unit = row["unit"]
        peers = ", ".join(
            f"{_NAMES.get(name, name)} {amount(cost, unit)}" for name, cost in row["peers"].items()
        )
        target = row["target"] and f"{row['target']}{'' if row['met'] else ': not met'}"
        ours = amount(row["ours"], unit) or row["measured"]
        what = re.sub(r"^S\d+,? ", "", row["what"])
        cells = (what, ours, amount(row["loop"], unit), peers, target)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
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
