"""What a benchmark prints: its table, and whether each target was met."""

from attrs import define


@define
class Verdict:
    """Collects targets; `met` is False as soon as one was missed."""

    met: bool = True

    def hold(self, what: str, *, measured: str, target: str, met: bool) -> None:
        """Print one target with what was measured."""
        self.met &= met
        print(f"{'met' if met else 'NOT MET':8} {what}: {measured} (target {target})", flush=True)
