"""The list of servers, which is paged as that of backups is."""

from __future__ import annotations

import ipaddress
import json

from .clock import START, iso
from .knobs import JSON, Knobs
from .listing import bad_choice, page
from .replies import Answer
from .state import DAY, Account, Key

__all__ = ["server_json", "servers_listing"]

_STATUSES = ("active", "stopped", "suspended")
_CREATED = iso(START.timestamp() - 30 * DAY)


def server_json(account: Account, knobs: Knobs, server_id: int) -> JSON:
    """The JSON of a server, as the knobs and `FakeVPS.add_server` say."""
    name = account.servers[server_id]
    fields = {
        "id": server_id,
        "name": name,
        "hostname": f"{name}.example.com",
        "status": knobs.server_statuses.get(server_id, "active"),
        "ip_address": str(ipaddress.IPv4Address("10.0.0.0") + server_id % 2**24),
        "location": knobs.server_locations.get(server_id, "us-west"),
        "plan": {"id": 2, "name": "Standard", "vcpus": 2, "memory": 4096, "storage": 80},
        "os": {"id": 7, "name": "Debian 12"},
        "created_at": _CREATED,
        "updated_at": _CREATED,
        **account.server_fields.get(server_id, {}),
    }
    return {field: value for field, value in fields.items() if value is not ...}


def servers_listing(account: Account, knobs: Knobs, query: dict[str, str], url: str) -> Answer:
    """The reply to a GET of the list at ``url`` with the parameters ``query``."""
    ids = sorted(account.servers)

    def json_of(server_id: int) -> JSON:
        return server_json(account, knobs, server_id)

    filters = {name: query.get(name) for name in ("status", "location")}
    for name, wanted in filters.items():
        if wanted and name not in knobs.ignores_filters:
            if name == "status" and wanted not in {*_STATUSES, *knobs.server_statuses.values()}:
                return bad_choice(name, wanted)
            ids = [server_id for server_id in ids if json_of(server_id).get(name) == wanted]

    def encoded(key: Key) -> bytes:
        return json.dumps(json_of(key[1]), separators=(",", ":"), ensure_ascii=False).encode()

    keys: list[Key] = [(0, server_id) for server_id in ids]
    return page(keys, encoded, account.descending, knobs, query, url)
