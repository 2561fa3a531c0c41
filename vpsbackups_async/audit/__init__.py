"""Which servers are covered by backups: `audit` reads, and a `Coverage` says how well.

`check` holds a coverage against controls: `NewestYounger`, `Kept`, `Reach`, or your own.
`html_report` shows both to people.

```python
from datetime import timedelta

from vpsbackups_async import ALL_SERVERS
from vpsbackups_async.audit import Kept, NewestYounger, Reach, audit, check, html_report

coverage = await audit(client, ALL_SERVERS, rpo=timedelta(hours=24), slack=timedelta(hours=2))
for server in coverage.servers:  # the worst first
    print(server.state, server.name, server.age, server.slots_used)
results = check(coverage, [NewestYounger(timedelta(hours=30)), Kept(3), Reach(timedelta(days=14))])
page = html_report(coverage, results)
```
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
