"""The converter between JSON and values, strict about types.

`_wire` imports this module on first use, because most pages do not need it: msgspec decodes them
directly into the same values. The converter handles what msgspec does not, such as unknown fields,
and names the place of a value that is invalid.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Final, Generic, TypeVar

import msgspec
from attrs import evolve, fields_dict, frozen
from cattrs import Converter, transform_error
from cattrs.errors import IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import MsgspecJsonConverter, make_converter

from vpsbackups_async.models import (
    Account,
    Backup,
    BackupStatus,
    BackupType,
    DetailedBackup,
    DetailedServerRef,
    Server,
    ServerRef,
    as_utc,
)

__all__ = ["PageDoc", "converter", "reason_and_place"]

T = TypeVar("T")

_FIELDS: Final = frozenset({
    "id", "server", "backup_type", "status", "size_mb", "created_at", "expires_at", "description",
    "message",
})  # fmt: skip
_SERVER_FIELDS: Final = frozenset({"id", "name"})


@frozen(eq=False, repr=False)
class PageDoc(Generic[T]):
    """The JSON object of a page; a bare array stands for one with these `results` alone."""

    results: tuple[T, ...]
    count: int | None = None
    next: str | None = None
    previous: str | None = None


@cache
def converter() -> MsgspecJsonConverter:
    """The converter for all values.

    It refuses values of the wrong type: by default, cattrs turns null into "None" and "7" into 7.
    """
    codec = make_converter()
    for kind in (int, str, bool):
        codec.register_structure_hook(kind, _strict)
    for known in (BackupType, BackupStatus, StrEnum):
        codec.register_structure_hook(known, lambda value, kind: kind(_strict(value, str)))
    codec.register_structure_hook(datetime, _when)
    codec.register_structure_hook(timedelta, _duration)
    codec.register_structure_hook(date, lambda text, _: date.fromisoformat(_strict(text, str)[:10]))
    codec.register_structure_hook_func(
        lambda kind: kind == tuple[str, ...],
        lambda value, _: tuple(_strict(text, str) for text in _list(value)),
    )
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
    plain: Callable[[Backup], Any] = make_dict_unstructure_fn(Backup, codec)
    # Within another value, the hook of the declared class is called, also for a detailed backup.
    codec.register_unstructure_hook(
        Backup, lambda backup: (plain if type(backup) is Backup else unstructure_detailed)(backup)
    )
    codec.register_structure_hook(Server, _taking_what_fits(codec, Server, ("id", "name")))
    omitted = make_dict_unstructure_fn(
        Server, codec, _cattrs_omit_if_default=True, extra=override(omit=True)
    )
    codec.register_unstructure_hook(Server, lambda server: {**omitted(server), **server.extra})
    structure_account = _taking_what_fits(codec, Account)
    codec.register_structure_hook(
        Account, lambda value, kind: structure_account(_flat_account(value), kind)
    )
    _add_page(codec, PageDoc[Backup], Backup)
    _add_page(codec, PageDoc[Server], Server)
    return codec


def _taking_what_fits(codec: Converter, kind: Any, required: tuple[str, ...] = ()) -> Any:
    """A hook that needs the required fields, takes the others that fit, and keeps the rest."""
    types = {name: part.type for name, part in fields_dict(kind).items() if name not in required}
    del types["extra"]
    hooks = {name: codec.get_structure_hook(wanted) for name, wanted in types.items()}
    left_out: Any = dict.fromkeys((*types, "extra"), override(omit=True))
    required_fields: Any = make_dict_structure_fn(kind, codec, **left_out)

    def structure(value: Any, _: Any) -> Any:
        made = required_fields(_object(value), kind)
        done = {*required, *(name for name in types if value.get(name) is None)}
        taken: dict[str, Any] = {}
        for name in types.keys() - done:
            with suppress(Exception):  # it is of another type, and kept as it came
                taken[name] = hooks[name](value[name], types[name])
        done.update(taken)
        extra = {name: value[name] for name in value if name not in done}
        return evolve(made, **taken, extra=extra)

    return structure


def _flat_account(value: Any) -> dict[str, Any]:
    """The account's fields, with two of the token's among them."""
    given = _object(value)
    if not given.keys() & {"account", "token"}:
        raise TypeError("expected an object with 'account' and 'token'")
    token = dict(_object(given.get("token") or {}))
    named = {"token_name": token.pop("name", None), "permissions": token.pop("permissions", None)}
    rest = {"token": token} if token else {}
    return {**_object(given.get("account") or {}), **named, **rest}


def _add_page(codec: Converter, page_doc: Any, item_kind: type[Any]) -> None:
    structure_item = codec.get_structure_hook(item_kind)

    def structure_items(value: Any, kind: Any) -> tuple[Any, ...]:
        items: list[Any] = []
        for item in _list(value):
            try:
                items.append(structure_item(item, item_kind))
            except Exception as error:  # noqa: BLE001  # hooks may raise anything
                # Stop at the first invalid item: cattrs' own hook collects the errors of all items,
                # which can take gigabytes for an invalid body of one megabyte.
                error.add_note(IterableValidationNote("", len(items), item_kind))
                raise IterableValidationError("", [error], kind) from None
        return tuple(items)

    page_fields: Callable[[Any, Any], Any] = make_dict_structure_fn(
        page_doc, codec, results=override(struct_hook=structure_items)
    )

    def structure_page(value: Any, _: Any) -> Any:
        fields = {"results": value} if isinstance(value, list) else _object(value)
        return page_fields(fields, page_doc)

    codec.register_structure_hook_func(lambda kind: kind == page_doc, structure_page)


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


def _duration(value: Any, _: Any) -> timedelta:
    try:
        return msgspec.convert(_strict(value, str), timedelta)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(f"expected an ISO 8601 duration, got {_shown(value)}") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def reason_and_place(error: Exception) -> tuple[str, str]:
    """Why the converter refused a value, and where in the value (`results[3].id`)."""
    reason, _, place = transform_error(error, "", _explain)[0].rpartition(" @ ")
    return reason, place.lstrip(".")


def _explain(error: BaseException, _: type | None) -> str:
    return "a required field is missing" if isinstance(error, KeyError) else str(error)
