"""The failures of a command over many backups: a line for each, a hint for each kind of error."""

from vpsbackups_async.cli.ends import Exit, code_of, explain, hint_of
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.errors import AuthenticationError, NotAttemptedError, WaitError

__all__ = ["Failures"]


class Failures:
    """Prints each failure to standard error. It keeps one error of each kind, not all of them.

    `concurrency` is whether the command has an option for how much it does at once, `given` what
    `pasting.given` gives for the commands in hints.
    """

    def __init__(self, screen: Screen, *, concurrency: bool = False, given: str = "") -> None:
        self._screen = screen
        self._concurrency = concurrency
        self._given = given
        self._kinds: dict[type[BaseException], BaseException] = {}
        self.count: int = 0
        self._not_attempted = 0

    def add(self, what: str, error: BaseException) -> None:
        """Print that `what` failed with this error; a refused token is printed only once."""
        known = type(error) in self._kinds
        self._kinds.setdefault(type(error), error)
        self.count += 1
        if isinstance(error, NotAttemptedError):
            self._not_attempted += 1
        elif isinstance(error, AuthenticationError):
            if not known:
                self._screen.note(explain(error), "red")
        else:
            # A `WaitError` names its backup itself.
            named = "" if isinstance(error, WaitError) else f"{what}: "
            self._screen.note(f"{named}{explain(error)}", "red")

    def close(self) -> Exit:
        """Print the hints; the exit code."""
        if self._not_attempted:
            self._screen.note(f"{self._not_attempted:,} were not attempted", "red")
        hints = (
            hint_of(error, concurrency=self._concurrency, given=self._given)
            for error in self._kinds.values()
            if not isinstance(error, NotAttemptedError)
        )
        for hint in dict.fromkeys(filter(None, hints)):
            self._screen.note(hint)
        return code_of(self._kinds.values())
