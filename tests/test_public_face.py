"""What `import vpsbackups_async` gives: names, signatures, the marker for type checkers."""

import difflib
import inspect
from collections.abc import AsyncGenerator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import fields
from helpers_face import public_face

import vpsbackups_async
from vpsbackups_async import (
    Backup,
    BackupRef,
    BackupsClient,
    BackupStream,
    Page,
    Restore,
    RetryPolicy,
    ServerRef,
    Sweep,
)


def test_all_is_sorted_without_duplicates_and_fits_one_screen() -> None:
    names = vpsbackups_async.__all__
    assert names == sorted(set(names))
    assert len(names) <= 70


def test_all_holds_every_public_name_of_the_root_and_no_other() -> None:
    there = {
        name
        for name, value in vars(vpsbackups_async).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(vpsbackups_async.__all__) == there


def test_a_star_import_gives_all_names() -> None:
    names: dict[str, Any] = {}
    exec("from vpsbackups_async import *", names)
    assert set(vpsbackups_async.__all__) <= set(names)


def test_every_public_name_is_documented() -> None:
    for name in vpsbackups_async.__all__:
        assert inspect.getdoc(getattr(vpsbackups_async, name)), name


def test_the_package_says_that_it_is_typed_and_which_version_it_is() -> None:
    assert files(vpsbackups_async).joinpath("py.typed").is_file()
    assert all(part.isdigit() for part in vpsbackups_async.__version__.split("."))


def test_no_public_name_parameter_type_or_default_changed_by_accident() -> None:
    written = (Path(__file__).parent / "data" / "public_face.txt").read_text("utf-8")
    changed = [
        line
        for line in difflib.unified_diff(
            written.splitlines(), public_face().splitlines(), "written", "now", lineterm="", n=0
        )
        if not line.startswith("@@")
    ]
    assert changed == [], (
        "if it is meant: python tests/helpers_face.py > tests/data/public_face.txt"
    )


def test_a_retry_policy_has_the_documented_knobs() -> None:
    policy = RetryPolicy()
    assert (policy.attempts, policy.max_retry_after) == (5, 120.0)
    assert (policy.create_grace, policy.create_again_after) == (15.0, None)
    assert callable(policy.backoff)
    assert list(inspect.signature(RetryPolicy).parameters) == [
        *["attempts", "backoff", "max_retry_after", "budget", "create_grace"],
        "create_again_after",
    ]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Sweep, {"items", "complete", "count_first", "count_last", "duplicates"}),
        (Page, {"items", "count", "next", "previous"}),
        (Restore, {"server_id", "backup_id", "status", "message", "data"}),
        (BackupRef, {"id", "server_id"}),
        (ServerRef, {"id", "name"}),
        (
            Backup,
            {"id", "server", "backup_type", "status", "size_mb", "created_at", "expires_at"}
            | {"description"},
        ),
    ],
)
def test_a_value_has_the_documented_fields(kind: type, names: set[str]) -> None:
    assert names <= {part.name for part in fields(kind)}


async def test_a_list_is_a_stream_and_not_a_coroutine() -> None:
    client = BackupsClient("vps_test")
    stream = client.list()
    assert isinstance(stream, BackupStream)
    assert isinstance(stream.pages(), AsyncGenerator)
    assert isinstance(client.fleet([1]).list(), AsyncGenerator)
    assert isinstance(client.fleet([1]).create(), AsyncGenerator)
    await client.close()
