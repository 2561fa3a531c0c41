"""Which faults strike a request."""

from __future__ import annotations

import random
from collections.abc import Iterable

import attrs

from .faults import Fault, Latency
from .seen import SeenRequest

__all__ = ["Script"]


@attrs.define(eq=False)
class _Armed:
    fault: Fault
    matched: int = 0
    struck: int = 0

    def strikes(self, seen: SeenRequest, chance: random.Random) -> bool:
        fault = self.fault
        if fault.times is not None and self.struck >= fault.times:
            return False
        if not seen.matches(fault.method, fault.path):
            return False
        self.matched += 1
        if self.matched <= fault.after:
            return False
        if fault.chance < 1.0 and chance.random() >= fault.chance:
            return False
        self.struck += 1
        return True


class Script:
    """The faults in force, in the order in which they were given."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self._chance = random.Random(seed)
        self._armed = [_Armed(fault) for fault in faults]

    def add(self, faults: Iterable[Fault]) -> None:
        """Put these in force, after those that are."""
        self._armed.extend(_Armed(fault) for fault in faults)

    def clear(self) -> None:
        """Leave none in force."""
        self._armed.clear()

    def pick(self, seen: SeenRequest) -> tuple[list[Latency], Fault | None]:
        """The delays for this request, and the first other fault that strikes it."""
        delays: list[Latency] = []
        found: Fault | None = None
        for armed in self._armed:
            if isinstance(armed.fault, Latency):
                if armed.strikes(seen, self._chance):
                    delays.append(armed.fault)
            elif found is None and armed.strikes(seen, self._chance):
                found = armed.fault
        return delays, found
