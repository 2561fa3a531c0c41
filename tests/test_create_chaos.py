"""Creates in all kinds of trouble: none is made twice, and none is made and lost.

`python -m benchmarks creates` runs the same troubles with a thousand creates each.
"""

import pytest

from benchmarks.creates import SENT_AGAIN, TROUBLES, Trouble, play

CREATES = 100


@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.name for trouble in TROUBLES])
def test_in_any_trouble_no_backup_is_made_twice_mistaken_or_lost(trouble: Trouble) -> None:
    tally = play(trouble, CREATES, seed=2)
    assert tally.right, tally
    assert tally.given > CREATES / 2
    assert tally.given + tally.settled + tally.named + tally.unmade == CREATES


def test_creates_that_are_sent_again_are_nearly_all_made_and_none_twice() -> None:
    tally = play(SENT_AGAIN, CREATES, seed=2)
    assert tally.right, tally
    assert tally.given >= 0.97 * CREATES
