"""The converter between JSON and values, strict about types.

`_wire` imports this module on first use, because most pages do not need it: msgspec decodes them
directly into the same values. The converter handles what msgspec does not, such as unknown fields,
and names the place of a value that is invalid.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final

import msgspec
from attrs import evolve
from cattrs import Converter, transform_error
from cattrs.errors import IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import MsgspecJsonConverter, make_converter

from vpsbackups_async.models import (
    Backup,
    BackupStatus,
    BackupType,
    DetailedBackup,
    DetailedServerRef,
    ServerRef,
    as_utc,
)

__all__ = ["converter", "reason_and_place"]

_FIELDS: Final = frozenset({
    "id", "server", "backup_type", "status", "size_mb", "created_at", "expires_at", "description",
    "message",
})  # fmt: skip
_SERVER_FIELDS: Final = frozenset({"id", "name"})


@cache
def converter(page_doc: type) -> MsgspecJsonConverter:
    """The converter for backups, refs and pages; `page_doc` is the class of a page in JSON.

    It refuses values of the wrong type: by default, cattrs turns null into "None" and "7" into 7.
    """
    codec = make_converter()
    for kind in (int, str):
        codec.register_structure_hook(kind, _strict)
    for known in (BackupType, BackupStatus):
        codec.register_structure_hook(known, lambda value, kind: kind(_strict(value, str)))
    codec.register_structure_hook(datetime, _when)
    server_fields = make_dict_structure_fn(ServerRef, codec)

    def structure_server(value: Any, _: type) -> ServerRef:
        fields = dict(_object(value))
        extra = {name: fields.pop(name) for name in tuple(fields) if name not in _SERVER_FIELDS}
        fields["name"] = _or_empty(fields.get("name"))
        server: ServerRef = server_fields(fields, ServerRef)
        return DetailedServerRef(server.id, server.name, extra) if extra else server

    # Registered first: the functions made below bind the hooks that exist at that time.
    codec.register_structure_hook(ServerRef, structure_server)
    backup_fields = make_dict_structure_fn(Backup, codec)
    detailed_fields = make_dict_structure_fn(DetailedBackup, codec, extra=override(omit=True))

    def structure_backup(value: Any, _: type) -> Backup:
        fields = dict(_object(value))
        extra = {name: fields.pop(name) for name in tuple(fields) if name not in _FIELDS}
        fields.setdefault("size_mb")
        fields.setdefault("expires_at")
        fields["description"] = _or_empty(fields.get("description"))
        if not extra and fields.get("message") is None:
            fields.pop("message", None)
            backup: Backup = backup_fields(fields, Backup)
            if type(backup.server) is ServerRef:
                return backup
        return evolve(detailed_fields(fields, DetailedBackup), extra=extra)

    codec.register_structure_hook(Backup, structure_backup)
    plain_fields = make_dict_unstructure_fn(DetailedBackup, codec, extra=override(omit=True))

    def unstructure_detailed(backup: DetailedBackup) -> dict[str, Any]:
        fields = plain_fields(backup)
        if fields["message"] is None:
            del fields["message"]
        server = backup.server
        fields["server"] = {"id": server.id, "name": server.name, **server.extra}
        return {**fields, **backup.extra}

    codec.register_unstructure_hook(DetailedBackup, unstructure_detailed)
    _add_page(codec, page_doc)
    return codec


def _add_page(codec: Converter, page_doc: type) -> None:
    structure_backup = codec.get_structure_hook(Backup)

    def structure_items(value: Any, kind: Any) -> tuple[Backup, ...]:
        items: list[Backup] = []
        for item in _list(value):
            try:
                items.append(structure_backup(item, Backup))
            except Exception as error:  # noqa: BLE001  # hooks may raise anything
                # Stop at the first invalid item: cattrs' own hook collects the errors of all items,
                # which can take gigabytes for an invalid body of one megabyte.
                error.add_note(IterableValidationNote("", len(items), Backup))
                raise IterableValidationError("", [error], kind) from None
        return tuple(items)

    page_fields: Callable[[Any, Any], Any] = make_dict_structure_fn(
        page_doc, codec, results=override(struct_hook=structure_items)
    )
    codec.register_structure_hook(page_doc, lambda value, _: page_fields(_object(value), page_doc))


def _strict(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {_shown(value)}")
    return value


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {_shown(value)}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {_shown(value)}")
    return value


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


def _when(value: Any, _: Any) -> datetime:
    try:
        return as_utc(msgspec.convert(_strict(value, str), datetime))
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(f"expected an ISO 8601 time, got {_shown(value)}") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def reason_and_place(error: Exception) -> tuple[str, str]:
    """Why the converter refused a value, and where in the value (`results[3].id`)."""
    reason, _, place = transform_error(error, "", _explain)[0].rpartition(" @ ")
    return reason, place.lstrip(".")


def _explain(error: BaseException, _: type | None) -> str:
    return "a required field is missing" if isinstance(error, KeyError) else str(error)
