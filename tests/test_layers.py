"""Imports point down: the sources are walked and held against the table of rooms and layers.

Type-only imports and imports inside functions count like any other.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import pytest_vpsbackups

import vpsbackups_async

ROOT = Path(vpsbackups_async.__file__).parent
PACKAGE = ROOT.name
# A module of its own once installed, and in the sources a file below `testing`.
PLUGIN = Path(pytest_vpsbackups.__file__)

LAYERS: dict[str, int] = {
    "_checks": 0,
    "_version": 0,
    "models": 0,
    "backoff": 0,
    "errors": 1,
    "_wire": 2,
    "_codec": 2,
    "_retry": 2,
    "_gate": 2,
    "_paging": 2,
    "_looking": 2,
    "_waiting": 2,
    "_settling": 2,
    "_fanout": 2,
    "_telemetry": 2,
    "_deadlines": 2,
    "_address": 2,
    "_jobs": 2,
    "_asgi": 2,
    "_transport": 3,
    "_creating": 4,
    "_stream": 4,
    "client": 4,
    "fleet": 4,
    "": 5,  # the package itself: __init__
    "limiters": 6,
    "pytest_vpsbackups": 6,
    "cli": 6,
    "__main__": 7,
}
MAY: dict[str, set[str]] = {
    "_checks": set(),
    "_version": set(),
    "models": set(),
    "backoff": {"models"},
    "errors": {"models"},
    # What few replies need, loaded when one does.
    "_wire": {"models", "errors", "_codec"},
    "_codec": {"models"},
    "_retry": {"backoff", "errors"},
    "_gate": {"errors"},
    "_paging": {"models", "errors"},
    "_looking": {"models", "errors"},
    # The hub sends its scout out, and reads the report that it brings back.
    "_waiting": {"models", "errors", "backoff", "_looking"},
    "_settling": {"models", "errors"},
    "_fanout": {"models", "errors"},
    "_telemetry": {"errors"},
    "_deadlines": set(),
    # The API's root is part of what goes over the wire.
    "_address": {"errors", "_wire"},
    "_jobs": {"models", "errors"},
    "_asgi": set(),
    "_transport": {room for room, layer in LAYERS.items() if layer <= 2},
    "fleet": {room for room, layer in LAYERS.items() if layer <= 3},
    "_creating": {room for room, layer in LAYERS.items() if layer <= 3},
    "_stream": {room for room, layer in LAYERS.items() if layer <= 3},
    # client.fleet() gives a Fleet; client.create() and client.list() are rooms of their own.
    "client": {room for room, layer in LAYERS.items() if layer <= 3}
    | {"fleet", "_creating", "_stream"},
    "": {room for room, layer in LAYERS.items() if layer <= 4},
    # Of an extra; the demo and the fake run the server to test against.
    "cli": {room for room, layer in LAYERS.items() if layer <= 5} | {"testing"},
    "__main__": {"cli"},
    # Of an extra: nothing of ours imports it.
    "limiters": {"_gate", "errors"},
    "testing": set(),
    # Once a fixture of it is used.
    "pytest_vpsbackups": {"", "testing"},
}
EVERYBODY_MAY = {"_checks"}
TOUCHES_AIOHTTP = {"_transport", "client", "testing"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where that stands."""

    room: str
    file: str
    line: int
    module: str

    @property
    def of_ours(self) -> str | None:
        """The room that is imported, None for what is not ours."""
        name, _, rest = self.module.partition(".")
        return rest.partition(".")[0] if name == PACKAGE else None


def room_of(path: Path) -> str:
    if path == PLUGIN:
        return PLUGIN.stem
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The full name of every module that a source imports, wherever in it that stands.

    `from vpsbackups_async import x` counts as the room x if there is one: it loads that room.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_room = module == PACKAGE and alias.name in ROOMS
                yield node.lineno, inner if is_room else module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"__import__", "import_module", "importlib.import_module"}:
                yield node.lineno, ast.literal_eval(node.args[0])


SOURCES = sorted({*ROOT.rglob("*.py"), PLUGIN})
ROOMS = {room_of(path) for path in SOURCES}


def imports_in(source: str, room: str, file: str, package: tuple[str, ...]) -> list[Import]:
    return [
        Import(room, file, line, module) for line, module in imported(ast.parse(source), package)
    ]


def all_imports() -> list[Import]:
    return [
        found
        for path in SOURCES
        for found in imports_in(
            path.read_text("utf-8"),
            room_of(path),
            path.name if path == PLUGIN else str(path.relative_to(ROOT)),
            () if path == PLUGIN else (PACKAGE, *path.relative_to(ROOT).parts[:-1]),
        )
    ]


IMPORTS = all_imports()


def breaches(imports: list[Import]) -> list[str]:
    """What the table does not allow."""
    return [
        f"{found.file}:{found.line} imports {found.module}"
        for found in imports
        if found.of_ours is not None
        and found.of_ours != found.room
        and found.of_ours not in MAY[found.room] | (EVERYBODY_MAY - {found.room})
    ]


def test_every_room_is_in_the_table_and_every_room_of_the_table_is_there() -> None:
    assert set(MAY) == ROOMS
    assert set(LAYERS) == ROOMS - {"testing"}


def test_imports_follow_the_table() -> None:
    assert breaches(IMPORTS) == []


def test_the_table_itself_points_down() -> None:
    sideways = {
        (room, other)
        for room, allowed in MAY.items()
        for other in allowed - {"testing"}
        if LAYERS[other] >= LAYERS[room]
    }
    assert sideways == {
        ("backoff", "models"),
        ("_waiting", "_looking"),
        ("_address", "_wire"),
        ("_wire", "_codec"),
        ("client", "fleet"),
        ("client", "_creating"),
        ("client", "_stream"),
    }


def test_the_server_to_test_against_takes_nothing_of_ours() -> None:
    assert {found.of_ours for found in IMPORTS if found.room == "testing"} <= {None, "testing"}


def test_the_pytest_plugin_imports_nothing_at_its_start_but_pytest_and_the_standard_library() -> (
    None
):
    top = [
        node
        for node in ast.parse(PLUGIN.read_text("utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = {module.partition(".")[0] for _, module in imported(ast.Module(top, []), ())}
    assert modules - {"pytest"} <= sys.stdlib_module_names
    assert "pytest" in modules


def test_no_room_imports_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.of_ours is not None and found.of_ours != found.room:
            graph.setdefault(found.room, set()).add(found.of_ours)
    assert len(graph) > 10
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", ["testing", "cli"])
def test_no_module_of_a_room_of_many_imports_another_in_a_circle(room: str) -> None:
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.of_ours == room and found.room == room:
            here = f"{PACKAGE}.{found.file.removesuffix('.py').replace('/', '.')}"
            graph.setdefault(here, set()).add(found.module)
    assert len(graph) > 5
    TopologicalSorter(graph).prepare()


def test_only_the_transport_and_the_front_door_know_aiohttp() -> None:
    touching = {found.room for found in IMPORTS if found.module.partition(".")[0] == "aiohttp"}
    assert touching == TOUCHES_AIOHTTP


def test_the_front_door_knows_aiohttp_for_the_type_of_a_session_only() -> None:
    tree = ast.parse((ROOT / "client.py").read_text("utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "aiohttp"
    }
    assert used == {"ClientSession"}


def test_decoding_and_retrying_do_no_io() -> None:
    rooms = {"_checks", "models", "backoff", "errors", "_wire", "_retry"}
    modules = {found.module.partition(".")[0] for found in IMPORTS if found.room in rooms}
    assert modules.isdisjoint({"aiohttp", "asyncio", "socket", "ssl", "os", "pathlib", "yarl"})


@pytest.mark.parametrize(
    "source",
    [
        "import vpsbackups_async.client",
        "from vpsbackups_async.client import BackupsClient",
        "from vpsbackups_async import client",
        "from vpsbackups_async import BackupsClient",
        "from . import client",
        "from .client import BackupsClient as B",
        "from . import BackupsClient",
        "if TYPE_CHECKING:\n    from vpsbackups_async.client import BackupsClient",
        "def f():\n    import vpsbackups_async.client as c",
        "class A:\n    def f(self):\n        from .client import BackupsClient",
        "try:\n    from vpsbackups_async._waiting import WaitHub\nexcept ImportError: pass",
        "import importlib\nimportlib.import_module('vpsbackups_async.fleet')",
        "__import__('vpsbackups_async.testing')",
    ],
)
def test_a_forbidden_import_is_found_however_it_is_written(source: str) -> None:
    found = imports_in(source, "_wire", "_wire.py", (PACKAGE,))
    assert len(breaches(found)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from ..client import B",
        "from .. import client",
        "import vpsbackups_async",
        "from .. import x",
    ],
)
def test_a_forbidden_import_is_found_in_the_test_server(source: str) -> None:
    found = imports_in(source, "testing", "testing/server.py", (PACKAGE, "testing"))
    assert len(breaches(found)) == 1


@pytest.mark.parametrize(
    "source",
    ["from .errors import ApiError", "from vpsbackups_async import models", "import aiohttp_x"],
)
def test_an_allowed_import_is_no_breach(source: str) -> None:
    assert breaches(imports_in(source, "_wire", "_wire.py", (PACKAGE,))) == []


def test_importing_the_package_loads_neither_a_server_nor_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys, vpsbackups_async; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    loaded = set(done.stdout.split())
    assert {"aiohttp", PACKAGE, f"{PACKAGE}._wire"} <= loaded
    unwanted = ("aiohttp.web", f"{PACKAGE}.testing.", f"{PACKAGE}.cli.", "rich.", "cyclopts.")
    assert [name for name in loaded if f"{name}.".startswith(unwanted)] == []
    assert done.stderr == ""
