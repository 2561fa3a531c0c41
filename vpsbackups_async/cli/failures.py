"""What failed in a job over many: a line each, what to do once for each kind, the exit code."""

from vpsbackups_async.cli.ends import Exit, code_of, explain, hint_of
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.errors import AuthenticationError, NotAttemptedError, WaitError

__all__ = ["Failures"]


class Failures:
    """Says each failure on standard error, and keeps none of them but their kinds."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._kinds: dict[type[BaseException], BaseException] = {}
        self.count = 0
        self._spared = 0

    def add(self, what: str, error: BaseException) -> None:
        """One failed; a refused token is said once, however many it keeps from being done."""
        known = type(error) in self._kinds
        self._kinds.setdefault(type(error), error)
        self.count += 1
        if isinstance(error, NotAttemptedError):
            self._spared += 1
        elif isinstance(error, AuthenticationError):
            if not known:
                self._screen.note(explain(error), "red")
        else:
            # An error of a wait names the backup by itself.
            named = "" if isinstance(error, WaitError) else f"{what}: "
            self._screen.note(named + explain(error), "red")

    def close(self) -> Exit:
        """Say what to do about them; the exit code."""
        if self._spared:
            self._screen.note(f"{self._spared:,} were not attempted", "red")
        hints = (hint_of(e) for e in self._kinds.values() if not isinstance(e, NotAttemptedError))
        for hint in dict.fromkeys(filter(None, hints)):
            self._screen.note(hint)
        return code_of(self._kinds.values())
