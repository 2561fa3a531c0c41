"""The coverage of servers as metrics for Prometheus, by way of node_exporter's textfile collector.

Needs the `metrics` extra: `pip install 'vpsbackups-async[metrics]'`.
"""

from os import PathLike
from typing import Final

from vpsbackups_async._files import write_whole
from vpsbackups_async.audit import Coverage, ServerCoverage
from vpsbackups_async.models import as_utc

try:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
except ImportError as _missing:
    raise ImportError(
        "vpsbackups_async.metrics needs the metrics extra: pip install 'vpsbackups-async[metrics]'"
    ) from _missing

__all__ = ["registry_of", "write_textfile"]

_OF_A_SERVER: Final = ("server_id", "name")


def write_textfile(coverage: Coverage, file: str | PathLike[str]) -> None:
    """Write the metrics to a file whose name ends in `.prom`, in one step.

    A reader sees the whole old file or the whole new one, which has the permissions of the old. A
    symbolic link stays, and its target is replaced; a device or pipe is written into. Raises
    `OSError` if it cannot be written; the old file stays then.
    """
    write_whole(file, generate_latest(registry_of(coverage)))


def registry_of(coverage: Coverage) -> CollectorRegistry:
    """The metrics of a coverage, all gauges; for each server at most six, and none for a backup.

    What is not known has no sample, as `vpsbackups_last_success_timestamp_seconds` of a server that
    never had a good backup: a made-up zero would be an age of many years.
    """
    registry = CollectorRegistry()
    made = Gauge(
        "vpsbackups_audit_timestamp_seconds", "When the audit was made.", registry=registry
    )
    made.set(as_utc(coverage.at).timestamp())
    rpo = Gauge(
        "vpsbackups_rpo_seconds", "The age a newest good backup may have.", registry=registry
    )
    rpo.set(coverage.rpo.total_seconds())
    counts = Gauge("vpsbackups_servers", "Servers in each state.", ["state"], registry=registry)
    for state, count in coverage.counts.items():
        counts.labels(state).set(count)
    states = Gauge(
        "vpsbackups_server_state",
        "1 for the state that the server is in.",
        [*_OF_A_SERVER, "state"],
        registry=registry,
    )
    gauges = {
        name: Gauge(f"vpsbackups_{name}", text, _OF_A_SERVER, registry=registry)
        for name, text in _HELP.items()
    }
    for one in coverage.servers:
        labels = (str(one.server_id), _utf8(one.name))
        states.labels(*labels, str(one.state)).set(1)
        for name, value in _values(one).items():
            if value is not None:
                gauges[name].labels(*labels).set(value)
    return registry


_HELP: Final = {
    "last_success_timestamp_seconds": "When the newest good backup was made.",
    "last_success_age_seconds": "The age of the newest good backup at the audit.",
    "slots_used": "Manual backups that the server holds.",
    "pinned": "Manual backups that are pinned.",
    "size_megabytes": "Size of the newest good backup, in MB as the API counts them.",
}


def _values(one: ServerCoverage) -> dict[str, float | None]:
    last, age = one.last_success, one.age
    return {
        "last_success_timestamp_seconds": None if last is None else as_utc(last).timestamp(),
        "last_success_age_seconds": None if age is None else age.total_seconds(),
        "slots_used": one.slots_used,
        "pinned": one.pinned,
        "size_megabytes": one.size_mb,
    }


def _utf8(text: str) -> str:
    """The text without what UTF-8 cannot hold, which JSON can."""
    return text.encode("utf-8", "replace").decode()
