"""What `import vpsbackups_async` gives: names, signatures, the marker for type checkers."""

import base64
import difflib
import inspect
import pickle
import subprocess
import sys
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
    Retention,
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
        for name in dir(vpsbackups_async)
        if not name.startswith("_")
        and not isinstance(getattr(vpsbackups_async, name), ModuleType)
        and name not in {"TYPE_CHECKING", "on_first_use"}
    }
    assert set(vpsbackups_async.__all__) == there


def run(code: str) -> str:
    """What the code prints in a new process, where nothing is loaded yet."""
    root = Path(vpsbackups_async.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_dir_lists_every_name_before_any_is_used() -> None:
    shown = set(run("import vpsbackups_async; print(*dir(vpsbackups_async))").split())
    assert {*vpsbackups_async.__all__, "events", "fleet", "retention", "__version__"} <= shown


def test_every_name_is_found_in_a_new_process_and_is_that_of_its_module() -> None:
    code = """
import sys
import vpsbackups_async
for name in vpsbackups_async.__all__:
    value = getattr(vpsbackups_async, name)
    assert value is getattr(vpsbackups_async, name), name
    home = getattr(value, "__module__", "vpsbackups_async")
    assert getattr(sys.modules[home], name) is value, name
"""
    assert run(code) == ""


def test_names_that_load_late_can_be_imported_matched_and_unpickled_at_once() -> None:
    kept = base64.b64encode(pickle.dumps(Retention(daily=7))).decode()
    code = f"""
import base64, pickle
from vpsbackups_async import Fleet, PrunePlan, events
import vpsbackups_async
assert pickle.loads(base64.b64decode({kept!r})) == vpsbackups_async.Retention(daily=7)
assert vpsbackups_async.retention.Retention is vpsbackups_async.Retention
match events.GateOpened(None, 1.0):
    case events.GateOpened(seconds=seconds):
        print(seconds)
"""
    assert run(code) == "1.0\n"


@pytest.mark.parametrize("name", ["events", "fleet", "retention"])
def test_a_public_module_that_loads_late_is_an_attribute_of_the_package(name: str) -> None:
    code = f"import vpsbackups_async; print(vpsbackups_async.{name}.__name__)"
    assert run(code) == f"vpsbackups_async.{name}\n"


def test_the_types_of_every_method_are_found_before_any_of_them_is_loaded() -> None:
    code = """
import inspect, typing
from vpsbackups_async import BackupsClient
for name, member in inspect.getmembers(BackupsClient, inspect.isfunction):
    typing.get_type_hints(member)
print(typing.get_type_hints(BackupsClient.fleet)["return"].__name__)
"""
    assert run(code) == "Fleet\n"


def test_an_unknown_name_is_the_usual_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        vpsbackups_async.Flet  # type: ignore[attr-defined]  # noqa: B018
    error = caught.value
    assert str(error) == "module 'vpsbackups_async' has no attribute 'Flet'"
    assert (error.name, error.obj) == ("Flet", vpsbackups_async)
    with pytest.raises(ImportError, match="cannot import name 'Flet'"):
        exec("from vpsbackups_async import Flet")


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
