"""Which servers are covered by backups: `audit` reads, and a `Coverage` says how well.

`check` holds a coverage against controls: `NewestYounger`, `Kept`, `Reach`, or your own.
`html_report` shows both to people.
"""

from vpsbackups_async.audit.controls import (
    Control,
    ControlResult,
    Evidence,
    Kept,
    NewestYounger,
    Reach,
    check,
)
from vpsbackups_async.audit.coverage import Coverage, ServerCoverage, State, cover
from vpsbackups_async.audit.reading import audit
from vpsbackups_async.audit.report import html_report

__all__ = [
    "Control",
    "ControlResult",
    "Coverage",
    "Evidence",
    "Kept",
    "NewestYounger",
    "Reach",
    "ServerCoverage",
    "State",
    "audit",
    "check",
    "cover",
    "html_report",
]
