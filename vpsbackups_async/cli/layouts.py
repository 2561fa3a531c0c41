"""How backups, servers and decisions are written: columns of a table, a plain line, CSV fields."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.rows import Column, Layout
from vpsbackups_async.cli.text import age, moment, safe, size
from vpsbackups_async.models import Backup, Server
from vpsbackups_async.retention import Decision

__all__ = ["BACKUPS", "DECISIONS", "SERVERS"]


def _word(text: str) -> str:
    return safe(text).replace(" ", "_") or "-"


# --- Backups -------------------------------------------------------------------------------------


def _type(backup: Backup) -> str:
    return "auto" if backup.backup_type == "automatic" else safe(backup.backup_type)


def _status_style(backup: Backup) -> str:
    if backup.is_failed:
        return "red"
    return {"in_progress": "yellow", "completed": "green"}.get(str(backup.status), "")


def _age(backup: Backup) -> str:
    return age(backup.created_at, datetime.now(UTC))


# An id is whole, since a cut id would be another id. TYPE, SIZE and AGE have a least width because
# later rows may have longer texts than the first ones.
_COLUMNS: Final[tuple[Column[Backup], ...]] = (
    Column("ID", lambda backup: str(backup.id), right=True, whole=True),
    Column("SERVER", lambda backup: str(backup.server.id), right=True, whole=True),
    Column("NAME", lambda backup: safe(backup.server.name), shrinks_to=12),
    Column("TYPE", _type, least=6),
    Column("STATUS", lambda backup: safe(backup.status), least=11, most=14, style=_status_style),
    Column("SIZE", lambda backup: size(backup.size_mb), least=8, right=True),
    Column("AGE", _age, least=4, only="narrow"),
    Column("CREATED (UTC)", lambda backup: moment(backup.created_at), only="wide"),
    Column("DESCRIPTION", lambda backup: safe(backup.description), least=8, rest=True),
)


def _plain(backup: Backup) -> str:
    """The ref, type, status, MB and moment, one word each, then the texts."""
    megabytes = "-" if backup.size_mb is None else backup.size_mb
    return (
        f"{written(backup.ref):<14} {_word(backup.backup_type):<9} {_word(backup.status):<11} "
        f"{megabytes:>7} {backup.created_at:%Y-%m-%dT%H:%M:%SZ}  {safe(backup.server.name):<16}  "
        f"{safe(backup.description)}"
    ).rstrip()


def _iso(when: datetime | None) -> str | None:
    return None if when is None else f"{when:%Y-%m-%dT%H:%M:%SZ}"


_CSV: Final[dict[str, Callable[[Backup], object]]] = {
    "id": lambda backup: backup.id,
    "server_id": lambda backup: backup.server.id,
    "server_name": lambda backup: backup.server.name,
    "backup_type": lambda backup: backup.backup_type,
    "status": lambda backup: backup.status,
    "size_mb": lambda backup: backup.size_mb,
    "created_at": lambda backup: _iso(backup.created_at),
    "expires_at": lambda backup: _iso(backup.expires_at),
    "description": lambda backup: backup.description,
}

BACKUPS: Final[Layout[Backup]] = Layout(_COLUMNS, _plain, _CSV)


# --- Servers -------------------------------------------------------------------------------------


def _server_style(server: Server) -> str:
    return {"active": "green", "stopped": "yellow", "suspended": "red"}.get(server.status, "")


def _plain_server(server: Server) -> str:
    return (
        f"{server.id:<10} {_word(server.status):<9} {_word(server.location):<12} "
        f"{_word(server.ip_address):<15}  {safe(server.name)}"
    ).rstrip()


SERVERS: Final[Layout[Server]] = Layout(
    (
        Column("ID", lambda server: str(server.id), right=True, whole=True),
        Column("NAME", lambda server: safe(server.name), most=40, shrinks_to=12),
        Column("STATUS", lambda server: safe(server.status), least=9, most=14, style=_server_style),
        Column("LOCATION", lambda server: safe(server.location), most=20),
        Column("IP ADDRESS", lambda server: safe(server.ip_address), least=15, most=39),
        Column("HOSTNAME", lambda server: safe(server.hostname), least=8, rest=True),
    ),
    _plain_server,
    {
        "id": lambda server: server.id,
        "name": lambda server: server.name,
        "hostname": lambda server: server.hostname,
        "status": lambda server: server.status,
        "ip_address": lambda server: server.ip_address,
        "location": lambda server: server.location,
    },
)


# --- Decisions -----------------------------------------------------------------------------------


def _verb(decision: Decision) -> str:
    return "keep" if decision.kept else "delete"


def _why(decision: Decision) -> str:
    return ", ".join(decision.rules) or decision.reason.replace("_", " ")


# Why a backup goes is the point of a plan: all else gives way but what is done, and to which.
DECISIONS: Final[Layout[Decision]] = Layout(
    (
        Column("DO", _verb, least=6, style=lambda one: "" if one.kept else "red"),
        Column("ID", lambda one: str(one.backup.id), right=True, whole=True),
        Column("SERVER", lambda one: str(one.backup.server.id), right=True, whole=True),
        Column("NAME", lambda one: safe(one.backup.server.name), shrinks_to=12, left_out=1),
        Column(
            "STATUS",
            lambda one: safe(one.backup.status),
            least=11,
            most=14,
            left_out=4,
            style=lambda one: _status_style(one.backup),
        ),
        Column("SIZE", lambda one: size(one.backup.size_mb), least=8, right=True, left_out=2),
        Column("AGE", lambda one: _age(one.backup), least=4, left_out=3, only="narrow"),
        Column("CREATED (UTC)", lambda one: moment(one.backup.created_at), only="wide"),
        Column("WHY", _why, least=16, rest=True),
    ),
    lambda one: f"{_verb(one):<6} {_plain(one.backup)}  ({_why(one)})",
    {"decision": _verb, "why": _why},
)
