"""Chooses the faults that apply to a request."""

from __future__ import annotations

import random
from collections.abc import Iterable

import attrs

from .faults import Fault, Latency
from .seen import SeenRequest

__all__ = ["ActiveFaults"]


@attrs.define(eq=False)
class _ActiveFault:
    fault: Fault
    matched: int = 0
    applied: int = 0

    def applies_to(self, seen: SeenRequest, randomness: random.Random) -> bool:
        fault = self.fault
        if fault.times is not None and self.applied >= fault.times:
            return False
        if not fault.matches(seen):
            return False
        self.matched += 1
        if self.matched <= fault.after:
            return False
        if fault.chance < 1.0 and randomness.random() >= fault.chance:
            return False
        self.applied += 1
        return True


class ActiveFaults:
    """The faults of a server, in the order in which they were added."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self._random = random.Random(seed)
        self._active = [_ActiveFault(fault) for fault in faults]

    def add(self, faults: Iterable[Fault]) -> None:
        """Add these faults; earlier ones are tried first."""
        self._active.extend(_ActiveFault(fault) for fault in faults)

    def clear(self) -> None:
        """Remove every fault."""
        self._active.clear()

    def pick(self, seen: SeenRequest) -> tuple[list[Latency], Fault | None]:
        """All delays for this request, and the first other fault that applies to it, if any."""
        delays: list[Latency] = []
        found: Fault | None = None
        for active in self._active:
            if isinstance(active.fault, Latency):
                if active.applies_to(seen, self._random):
                    delays.append(active.fault)
            elif found is None and active.applies_to(seen, self._random):
                found = active.fault
        return delays, found
