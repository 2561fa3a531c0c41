"""What a run of the benchmarks gathers: each target with what was measured, and curves over N."""

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, frozen


@frozen
class Row:
    """One target: what was measured of ours, of the loop that a user would write, and of others.

    `ratio` is what the target is about where that is a comparison. `unit` is that of `ours`, `loop`
    and `peers`; `measured` says it all in words.
    """

    what: str
    measured: str
    target: str
    met: bool
    ours: float | None = None
    loop: float | None = None
    peers: Mapping[str, float] = field(factory=dict)
    unit: str = ""
    ratio: float | None = None


@frozen
class Curve:
    """A cost over size: for each name the points (N, cost)."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


@define
class Verdict:
    """Collects targets; `met` is False as soon as one was missed.

    With `smoke` everything is run on a small scale to see that it does its work: what was counted
    must be right, and what was measured is worth nothing and misses no target.
    """

    smoke: bool = False
    met: bool = True
    rows: list[Row] = field(factory=list)
    curves: list[Curve] = field(factory=list)

    def size(self, full: int, smoke: int) -> int:
        """How many, by the scale of the run."""
        return smoke if self.smoke else full

    def check(self, what: str, *, right: bool) -> None:
        """Note whether the work was done: nothing measured of work not done counts."""
        if not right:
            self.met = False
            print(f"WRONG    {what}", flush=True)

    def hold(self, what: str, *, measured: str, target: str, met: bool, **more: Any) -> None:
        """Print one target with what was measured; `more` are fields of `Row`."""
        row = Row(what, measured, target, met, **more)
        self.rows.append(row)
        if not self.smoke:
            self.met &= met
        sign = "smoke" if self.smoke else "met" if met else "NOT MET"
        print(f"{sign:8} {what}: {measured} (target {target})", flush=True)

    def compare(
        self, what: str, ours: float, other: float, target: float, *, unit: str = "µs", **more: Any
    ) -> None:
        """Hold ours against another's cost: at most `target` times as much."""
        ratio = ours / other
        self.hold(
            what,
            measured=f"{ours:.1f} {unit} against {other:.1f}, {ratio:.2f} x",
            target=f"<= {target:.2f} x",
            met=ratio <= target,
            ours=ours,
            unit=unit,
            ratio=ratio,
            **more,
        )

    def note(self, what: str, ours: float, loop: float, *, unit: str = "µs") -> None:
        """Print a comparison that has no target of its own."""
        ratio = ours / loop
        print(f"{'':8} {what}: {ours:.1f} {unit} against {loop:.1f}, {ratio:.2f} x", flush=True)
        self.rows.append(Row(what, "", "", True, ours, loop, unit=unit, ratio=ratio))

    def curve(self, title: str, x: str, y: str, **series: Sequence[tuple[float, float]]) -> None:
        """Keep a curve, and print its points."""
        self.curves.append(Curve(title, x, y, series))
        for name, points in series.items():
            shown = "  ".join(f"{at:,.0f}: {cost:,.1f}" for at, cost in points)
            print(f"{title} ({y} over {x}), {name.replace('_', ' ')}: {shown}", flush=True)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "machine": machine(),
            "rows": [asdict(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
        }


def machine() -> str:
    """What this was measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = sum(line.startswith("processor") for line in _lines("/proc/cpuinfo"))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "msgspec"))
    python = f"{sys.implementation.name} {platform.python_version()}"
    return f"{cpu}, {cores} cores, {platform.system()}, {python}, {libraries}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, for a terminal."""
    lines = [
        (
            row.what,
            amount(row.ours, row.unit),
            amount(row.loop, row.unit),
            ", ".join(f"{name} {amount(cost, row.unit)}" for name, cost in row.peers.items()),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
            ("met" if row.met else "NOT MET") if row.target else "",
        )
        for row in rows
    ]
    heads = ("work", "ours", "plain loop", "peers", "ratio", "target", "")
    widths = [max(len(line[n]) for line in [heads, *lines]) for n in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *lines]
    )


def amount(cost: float | None, unit: str) -> str:
    """A figure with its unit, empty where there is none."""
    if cost is None:
        return ""
    digits = 0 if cost >= 100 else 1 if cost >= 1 else 2
    return f"{cost:,.{digits}f} {unit}".strip()
