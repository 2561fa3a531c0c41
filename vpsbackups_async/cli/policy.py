"""The options that name servers and the policy by which their backups are deleted."""

from typing import Annotated, Any, Final

from attrs import frozen
from cyclopts import Parameter

from vpsbackups_async._periods import zone_of
from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.ids import server_ids
from vpsbackups_async.cli.numbers import WHOLE, is_whole
from vpsbackups_async.cli.options import All, check_all, duration_of
from vpsbackups_async.models import ALL_SERVERS, AllServers
from vpsbackups_async.retention import Retention

__all__ = ["KEEP", "SERVERS", "Chosen", "Keep", "policy_of"]

_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

_Hidden = Annotated[int, WHOLE, Parameter(metavar="N", show=False)]


@Parameter(name="*")
@frozen(kw_only=True)
class Chosen:
    """Which servers are meant: some by their ids, or all."""

    server: Annotated[
        tuple[str, ...],
        Parameter(("--server", "-s"), metavar="ID", negative=(), help="this server; repeatable"),
    ] = ()
    servers_from: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            allow_leading_hyphen=True,
            help="the servers named there; - is stdin",
        ),
    ] = None
    all_servers: All = False

    def ids(self) -> list[int] | AllServers:
        """The ids, or `ALL_SERVERS`; raises `UsageError` if none or both are given.

        Raises `NothingToDo` for a file that names none.
        """
        named = bool(self.server) or self.servers_from is not None
        check_all(all_servers=self.all_servers, named=named)
        ids = server_ids(self.server, self.servers_from)
        if not (self.all_servers or ids):
            raise UsageError("no server is named: give --server ID, --servers-from FILE, or --all")
        return ALL_SERVERS if self.all_servers else ids


@Parameter(name="*")
@frozen(kw_only=True)
class Keep:
    """What a policy keeps."""

    keep_daily: Annotated[
        int,
        WHOLE,
        Parameter(metavar="N", help="days; also last, hourly, weekly, monthly, yearly"),
    ] = 0
    keep_last: _Hidden = 0
    keep_hourly: _Hidden = 0
    keep_weekly: _Hidden = 0
    keep_monthly: _Hidden = 0
    keep_yearly: _Hidden = 0
    keep_within: Annotated[str | None, Parameter(metavar="TIME", show=False)] = None
    tz: Annotated[str, Parameter(metavar="ZONE", help="of the periods; UTC if not given")] = "UTC"
    job: Annotated[
        str | None, Parameter(metavar="NAME", help="the label of the backups, [job:NAME]")
    ] = None

    def retention(self) -> Retention:
        """The policy; raises `UsageError` if the options make none."""
        rules: dict[str, Any] = {
            rule: count for rule in _RULES if (count := getattr(self, f"keep_{rule}"))
        }
        for rule, count in rules.items():
            if count < 0:
                raise UsageError(f"--keep-{rule} is zero or more")
        if self.keep_within is not None:
            rules["within"] = duration_of("--keep-within", self.keep_within)
        if not rules:
            raise UsageError("nothing would be kept: give --keep-daily 4, for example")
        try:
            zone_of(self.tz)
        except ValueError:
            raise UsageError(f"--tz {self.tz!r} is no time zone: give Europe/Berlin") from None
        try:
            return Retention(**rules, tz=self.tz, job=self.job)
        except (ValueError, OverflowError) as error:
            raise UsageError(f"this policy cannot be: {error}") from None


def policy_of(rules: str, *, tz: str, job: str | None) -> Retention:
    """The policy of a text such as `daily=4,weekly=4`; raises `UsageError` if it makes none."""
    counts: dict[str, Any] = {}
    for rule in rules.split(","):
        name, _, count = rule.strip().partition("=")
        if name not in _RULES or not is_whole(count) or count.startswith("-"):
            raise UsageError(f"--rotate {rules!r} is no policy: give daily=4,weekly=4, for example")
        if name in counts:
            raise UsageError(f"--rotate {rules!r} has {name} twice: give it once")
        counts[name] = int(count)
    try:
        return Retention(**counts, tz=tz, job=job)
    except (ValueError, OverflowError) as error:
        raise UsageError(str(error)) from None


SERVERS = Chosen()
KEEP = Keep()
