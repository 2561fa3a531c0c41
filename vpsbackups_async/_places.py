"""How many backups the rules of a policy may keep: arithmetic over their counts.

`counts` has a number for each rule that has one, from `last` to `yearly` in this order.
"""

from collections.abc import Mapping

from vpsbackups_async._periods import PERIODS, least_reached

__all__ = ["most_kept", "reduced"]


def most_kept(
    counts: Mapping[str, int], min_keep: int, *, stacked: bool, by_within: int = 0
) -> int:
    """The most backups that are kept, if `within` keeps so many; some history has as many."""
    last = counts.get("last", 0)
    if stacked:
        # Each rule finds as many more, and the newest ones that `min_keep` adds may all be in the
        # period of the newest backup, which some rule keeps.
        return sum(counts.values()) + by_within + max(0, min_keep - max(by_within + last, 1))
    # The newest ones may all be in one hour. Of each rule, the periods into which a shorter one
    # reaches add nothing: their newest backup is also the newest of a shorter period.
    return max(by_within, last, min_keep) + sum(
        max(0, counts.get(rule, 0) - least_reached(rule, counts)) for rule in PERIODS
    )


def reduced(
    counts: Mapping[str, int], min_keep: int, *, stacked: bool, places: int
) -> tuple[dict[str, int], int]:
    """Smaller counts and `min_keep` with which no more than `places` backups are kept.

    The largest number is reduced first, of equal ones that of the shorter period.
    """
    fewer = {rule: min(count, places) for rule, count in counts.items()} or {"last": places}
    least = min(min_keep, places)
    while most_kept(fewer, least, stacked=stacked) > places:
        largest = max(fewer, key=fewer.__getitem__)
        if least > fewer[largest]:
            least -= 1
        else:
            fewer[largest] -= 1
    return fewer, least
