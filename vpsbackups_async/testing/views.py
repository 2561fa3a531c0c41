"""The endpoints of the backups API, backed by an account in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .knobs import Knobs
from .listing import listing
from .replies import HTML_TYPE, Answer, answer_json, problem
from .seen import SeenRequest
from .servers import servers_listing
from .state import RUNNING, Account

__all__ = ["Api"]

STARTED = "Backup is being created. This may take several minutes depending on server size."
_INTEGER = re.compile(r"\s*([+-]?\d+)(?:\.0*)?\s*", re.ASCII)
_PATHS = (
    ("backups", re.compile(r"/backups/")),
    ("backup", re.compile(r"/backups/([^/]+)/")),
    ("restore", re.compile(r"/servers/([^/]+)/restore/")),
    ("servers", re.compile(r"/servers/")),
    ("account", re.compile(r"/account/me/")),
)
_ACCOUNT_CALLS = ("servers", "account")
_MISSING = object()


class _RefusedError(Exception):
    """The request's body is invalid; ``answer`` is the reply."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Api:
    """Answers requests as the provider's Django server would.

    ``restores`` collects the (server id, backup id) of every accepted restore. ``revoked`` and
    ``forbidden`` make it answer 401 and 403.
    """

    def __init__(self, account: Account, knobs: Knobs) -> None:
        self.restores: list[tuple[int, int]] = []
        self.revoked = False
        self.forbidden = False
        self._account = account
        self._knobs = knobs
        self._handlers: dict[str, dict[str, Callable[..., Answer]]] = {
            "backups": {"GET": self._list, "POST": self._create},
            "backup": {"DELETE": self._delete},
            "restore": {"POST": self._restore},
            "servers": {"GET": self._servers},
            "account": {"GET": self._me},
        }

    def answer(self, seen: SeenRequest, base: str) -> Answer:
        """The answer to a request; ``base`` is the scheme, host and port it was sent to."""
        root = self._knobs.prefix.rstrip("/") + "/api/v1"
        tail = seen.path[len(root) :] if seen.path.startswith(root) else ""
        name, ids = self._route(tail)
        if name is None:
            if not tail.endswith("/") and self._route(tail + "/")[0] is not None:
                return _redirect_to_slash(seen)
            return Answer(404, b"<h1>Not Found</h1>", {"Content-Type": HTML_TYPE})
        if refused := self._refuse(seen, name):
            return refused
        handlers = self._handlers[name]
        handler = handlers.get(seen.method)
        if handler is None:
            allow = ", ".join([*handlers, "OPTIONS"])
            return problem(405, f'Method "{seen.method}" not allowed.', {"Allow": allow})
        try:
            with self._account.lock:
                return handler(seen, base, *map(_id, ids))
        except _RefusedError as refusal:
            return refusal.answer

    def _route(self, tail: str) -> tuple[str | None, list[str]]:
        for name, pattern in _PATHS:
            if found := pattern.fullmatch(tail):
                if self._knobs.account_calls == "missing" and name in _ACCOUNT_CALLS:
                    break
                return name, list(found.groups())
        return None, []

    def _refuse(self, seen: SeenRequest, name: str) -> Answer | None:
        if self.revoked or seen.headers.get("Authorization") != f"Bearer {self._knobs.token}":
            return problem(401, "Invalid token.", {"WWW-Authenticate": "Bearer"})
        calls = self._knobs.account_calls
        if self.forbidden or (calls == "forbidden" and name in _ACCOUNT_CALLS):
            return problem(403, "You do not have permission to perform this action.")
        return None

    def _list(self, seen: SeenRequest, base: str) -> Answer:
        url = (self._knobs.next_base or base).rstrip("/") + seen.path
        return listing(self._account, self._knobs, seen.query, url)

    def _servers(self, seen: SeenRequest, base: str) -> Answer:
        url = (self._knobs.next_base or base).rstrip("/") + seen.path
        return servers_listing(self._account, self._knobs, seen.query, url)

    def _me(self, _seen: SeenRequest, _base: str) -> Answer:
        return answer_json(200, self._knobs.account_reply)

    def _create(self, seen: SeenRequest, _base: str) -> Answer:
        fields = _fields(seen)
        server_id = _integer(fields, "server_id")
        description = _text(fields, "description")
        knobs, account = self._knobs, self._account
        if server_id not in account.servers:
            return problem(404, "Server not found.")
        backups = [backup.data for backup in account.on_server(server_id)]
        if knobs.one_at_a_time and any(data.get("status") == RUNNING for data in backups):
            return problem(409, "A backup of this server is already in progress.")
        if sum(data.get("backup_type") == "manual" for data in backups) >= knobs.quota:
            detail = f"A server can have at most {knobs.quota} manual backups."
            return problem(knobs.quota_status, detail)
        if knobs.stored_description is not None:
            description = knobs.stored_description(description)
        backup = account.create(server_id, description)
        # With backup_seconds=0 the backup is completed already, but the reply always shows it in
        # progress.
        started = {"status": RUNNING, "size_mb": None, "message": STARTED}
        return answer_json(201, {**backup.data, **started})

    def _delete(self, _seen: SeenRequest, _base: str, backup_id: int) -> Answer:
        if self._account.remove(backup_id) is None:
            return problem(404, "Backup not found.")
        return Answer(204)

    def _restore(self, seen: SeenRequest, _base: str, server_id: int) -> Answer:
        backup_id = _integer(_fields(seen), "backup_id")
        if server_id not in self._account.servers:
            return problem(404, "Server not found.")
        backup = self._account.get(backup_id)
        if backup is None or backup.server_id != server_id:
            return problem(404, "Backup not found.")
        self.restores.append((server_id, backup_id))
        status, body = self._knobs.restore_reply
        return Answer(status, body) if isinstance(body, bytes) else answer_json(status, body)


def _id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise _RefusedError(problem(404, "Not found."))
    return int(text)


def _redirect_to_slash(seen: SeenRequest) -> Answer:
    path, mark, query = seen.target.partition("?")
    return Answer(301, b"", {"Location": f"{path}/{mark}{query}"})


def _fields(seen: SeenRequest) -> dict[str, Any]:
    kind = seen.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if seen.body and kind != "application/json":
        raise _RefusedError(problem(415, f'Unsupported media type "{kind}" in request.'))
    fields = seen.json if seen.body else {}
    if fields is None and seen.body.strip() != b"null":
        raise _RefusedError(problem(400, "JSON parse error - the body is not valid JSON."))
    if not isinstance(fields, dict):
        given = type(fields).__name__
        message = f"Invalid data. Expected a dictionary, but got {given}."
        raise _bad_field("non_field_errors", message)
    return fields


def _bad_field(name: str, message: str) -> _RefusedError:
    return _RefusedError(answer_json(400, {name: [message]}))


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name, _MISSING)
    if value is _MISSING:
        raise _bad_field(name, "This field is required.")
    if value is None:
        raise _bad_field(name, "This field may not be null.")
    found = _INTEGER.fullmatch(str(value))
    if found is None:
        raise _bad_field(name, "A valid integer is required.")
    return int(found[1])


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if value is None:
        raise _bad_field(name, "This field may not be null.")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _bad_field(name, "Not a valid string.")
    return str(value).strip()
