"""Runs over many servers that survive whatever dies meanwhile; start from `DurableFleet`.

Needs the `durable` extra: `pip install 'vpsbackups-async[durable]'`.

From Python:

```python
from datetime import timedelta

from vpsbackups_async.durable import DurableFleet, Limits

async with DurableFleet("sqlite:///runs.sqlite", limits=Limits(rate=20)) as runs:
    await runs.submit("nightly", [12345, 12346], description="Nightly", ensure=timedelta(hours=20))
    print((await runs.progress("nightly")).waiting)
    # In a process of its own, as many as you like: await runs.work()
    async for outcome in runs.results("nightly"):
        print(outcome.server_id, outcome.state, outcome.backup_id, outcome.error)
```

`submit` creates a backup of each server; `ensure=` only where no recent one is, `rotate=` (a
`Retention`) deletes what the policy lets go. It may be repeated: a run takes each server once. A
name with other options is refused. `cancel` stops what waits, `forget` deletes a run that is over
(`vpsbackups run forget --older-than 30d`; nothing else does), and a new run of that name never
takes a backup of the old one for its own.

- **No second create.** Before a create is sent, its intent is in the database, and each bears a
  marker that no other one has (`[vb:14214a5643ee.12345.0]`). Who takes over from a dead worker
  looks for it, and sends another create only after complete looks over `Limits.create_again_after`
  (120 s) have shown nothing that may be it, when no request of the dead one can be on the wire any
  more, and if the API was seen to keep markers. Both are waited out anew by who takes over, in
  seconds of the database's clock and of its own steady one, so that no clock that is set decides
  it: that is 210 s by default. After a timeout or a 504 nothing is sent again, nor by a retry: that
  is noted as soon as it is seen. A worker that ends while the database is away waits a minute for
  it to note that, and otherwise logs the servers as an error; one that is killed just then cannot.
  What stays unknown is looked for during an hour (`unknown_for`), and then is an outcome:
  `unknown`, with the ids that may be it. A redirect, or a page in place of an answer of the API,
  tells as little as a cut connection. By a 503 nothing was done (RFC 9110, 15.6.4): such a create
  is sent again after a pause and one complete look that shows nothing that may be it, or it fails,
  and a retry first looks for it over `create_again_after`. A 400 or 409 after any of these may be
  because of the backup that was made all the same: that is looked for, too, before the server
  fails. Three windows are left: a process that is frozen after it checked whether its create may
  still be sent, and before the socket takes it; an API that carries out a create later than those
  210 s, which it answered by a 500 or 502 or by a cut connection, or whose process was killed while
  it was on the wire; and one whose 503 is wrong, if it carries the create out, or lists it, only
  after that one look. A twin made so is named in the outcome, if it is listed when the server is
  looked at once the backup is completed.
- **Dead workers.** A worker holds a lock while it lives, and up to 15 connections to PostgreSQL.
  Started again it takes the lock of the dead one; otherwise another worker takes over within
  seconds. A worker that holds its lock and gives no sign of life for half a minute (it is frozen,
  say) is taken over too, and ends once it wakes. `run status` names its process and host until
  somebody has: end it. On SQLite a worker that was frozen while it wrote keeps the database locked
  for all others until it is ended. A worker that loses its lock (PostgreSQL was restarted, say),
  that gets no answer from PostgreSQL for 20 s, or whose database fails (a full disk), ends with
  exit code 1: run it under something that starts it again, such as systemd with `Restart=always`.
  SIGTERM and Ctrl-C end a worker in order.
- **Schedules** need a worker at their time. What was missed is caught up with one run, and a
  server that another run still works on is passed over and named. The ping URL is kept in the
  database; the token never is, nor any other secret.
- **Whose database.** It belongs to the account of the first token that worked on it or submitted
  all servers. Another one's token is refused by workers, and by all that changes runs or schedules
  if the API answers; without a token who can write to the database may change them, and to look at
  runs takes none. Where the API does not tell the account, name it: `--account` or
  `VPSBACKUPS_ACCOUNT`.
- **Traps.** The database of a SQLite run must be on a local disk, and is safe against a power cut
  (`synchronous=FULL`). PostgreSQL is 14 or newer. All workers of a database run the same version
  of this library: another one is refused if it works differently. A database whose tables a newer
  version of the engine made is not: the engine does not tell. One worker in a process: the
  engine beneath, [DBOS Transact](https://github.com/dbos-inc/dbos-transact-py), is global, and a
  program that uses it itself wants ours in another process. On Python 3.12 and newer the engine
  wants SQLite 3.42; with an older one, as Debian 12 has, this library gives it what it lacks.
"""

try:
    import dbos as _dbos  # noqa: F401
    import filelock as _filelock  # noqa: F401
    import platformdirs as _platformdirs  # noqa: F401
except ImportError as _missing:
    raise ImportError(
        "vpsbackups_async.durable needs the durable extra: pip install 'vpsbackups-async[durable]'"
    ) from _missing

from vpsbackups_async.durable.runs import DurableFleet
from vpsbackups_async.durable.schedules import Schedule
from vpsbackups_async.durable.values import (
    BackupTask,
    EnsureTask,
    ItemState,
    Limits,
    RotateTask,
    RunInfo,
    RunOutcome,
    RunProgress,
    SilentWorker,
)

__all__ = [
    "BackupTask",
    "DurableFleet",
    "EnsureTask",
    "ItemState",
    "Limits",
    "RotateTask",
    "RunInfo",
    "RunOutcome",
    "RunProgress",
    "Schedule",
    "SilentWorker",
]
