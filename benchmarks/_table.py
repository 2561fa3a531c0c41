"""The results of a run of the benchmarks: targets with their measurements, and curves over N."""

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, frozen


@frozen
class Row:
    """One target and what was measured for it.

    `ours` is this library's figure, `loop` that of a plain loop as a user would write it, and
    `peers` those of other libraries; all are in `unit`. `measured` is the result as text. `ratio`
    is `ours` divided by the figure that it is compared with, if any.
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
    """How a cost grows with size: for each name the points (N, cost)."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


@define
class Verdict:
    """Collects the results of a run; `met` is False once a target was missed or a check failed.

    A `smoke` run is small. It only checks that the work is done: a wrong count fails it, a missed
    target does not.
    """

    smoke: bool = False
    met: bool = True
    rows: list[Row] = field(factory=list)
    curves: list[Curve] = field(factory=list)

    def size(self, full: int, smoke: int) -> int:
        """`smoke` in a smoke run, `full` otherwise."""
        return smoke if self.smoke else full

    def check(self, what: str, *, right: bool) -> None:
        """Fail the run unless the work was done; otherwise its measurements mean nothing."""
        if not right:
            self.met = False
            print(f"WRONG    {what}", flush=True)

    def record(self, what: str, *, measured: str, target: str, met: bool, **more: Any) -> None:
        """Add and print one target with its measurement; `more` are further fields of `Row`."""
        row = Row(what, measured, target, met, **more)
        self.rows.append(row)
        if not self.smoke:
            self.met &= met
        sign = "smoke" if self.smoke else "met" if met else "NOT MET"
        print(f"{sign:8} {what}: {measured} (target {target})", flush=True)

    def compare(
        self, what: str, ours: float, other: float, target: float, *, unit: str = "µs", **more: Any
    ) -> None:
        """Record a target: `ours` is at most `target` times `other`, both in `unit`."""
        ratio = ours / other
        self.record(
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
        """Add and print a comparison that has no target."""
        ratio = ours / loop
        print(f"{'':8} {what}: {ours:.1f} {unit} against {loop:.1f}, {ratio:.2f} x", flush=True)
        self.rows.append(Row(what, "", "", True, ours, loop, unit=unit, ratio=ratio))

    def curve(self, title: str, x: str, y: str, **series: Sequence[tuple[float, float]]) -> None:
        """Add a curve and print its points."""
        self.curves.append(Curve(title, x, y, series))
        for name, points in series.items():
            shown = "  ".join(f"{at:,.0f}: {cost:,.1f}" for at, cost in points)
            print(f"{title} ({y} over {x}), {name.replace('_', ' ')}: {shown}", flush=True)

    def as_json(self) -> dict[str, Any]:
        """All results as values that JSON can hold."""
        return {
            "machine": machine(),
            "rows": [asdict(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
        }


def machine() -> str:
    """The processor, system, Python and libraries of this machine, as text."""
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
    """A figure with its unit; an empty text for None."""
    if cost is None:
        return ""
    digits = 0 if cost >= 100 else 1 if cost >= 1 else 2
    return f"{cost:,.{digits}f} {unit}".strip()
