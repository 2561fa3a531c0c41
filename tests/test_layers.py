"""Imports point down: the sources are walked and held against the table of modules and layers.

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
    "_lazy": 0,
    "_values": 0,
    "_ping": 0,
    "_files": 0,
    "_pydantic": 0,
    "_statuses": 0,
    "_outcomes": 0,
    "models": 0,
    "backoff": 0,
    "_durations": 0,
    "_periods": 0,
    "errors": 1,
    "events": 1,
    "_events": 1,
    "_decisions": 1,
    "_learned": 1,
    "_places": 1,
    "_wire": 2,
    "_codec": 2,
    "_tags": 2,
    "retention": 2,
    "_bulk": 2,
    "_web": 2,
    "_transport": 3,
    "_lists": 4,
    "_waiting": 5,
    "_creating": 5,
    "_pruning": 5,
    "_verbs": 6,
    "client": 6,
    "fleet": 6,
    "_on_demand": 6,
    "_shared": 6,
    "": 7,  # the package itself: __init__
    "audit": 7,
    "durable": 8,
    "limiters": 8,
    "metrics": 8,
    "pytest_vpsbackups": 8,
    "cli": 9,
    "__main__": 10,
}


def below(layer: int) -> set[str]:
    """The modules and folders of the layers under this one."""
    return {name for name, own in LAYERS.items() if own < layer}


MAY: dict[str, set[str]] = {
    "_checks": set(),
    "_version": set(),
    "_lazy": set(),
    "_values": set(),
    "_ping": set(),
    "_files": set(),
    "_pydantic": set(),
    "_statuses": {"_pydantic"},
    "_outcomes": {"_values"},
    "models": {"_pydantic", "_statuses", "_outcomes", "_values"},
    "backoff": {"models", "_values"},
    "errors": {"models"},
    "events": {"models"},
    # The names of `events`, which is loaded when one of them is used.
    "_events": {"_lazy", "events"},
    "_durations": set(),
    "_periods": set(),
    "_places": {"_periods"},
    "_decisions": {"models"},
    "_learned": {"models", "backoff", "_durations"},
    # The converter is loaded when a reply needs it, and few do.
    "_wire": {"models", "errors", "_codec"},
    "_codec": {"models"},
    "_tags": {"models", "errors"},
    "retention": {"models", "errors", "_decisions", "_tags", "_periods", "_places"},
    "_bulk": {"models", "errors"},
    "_web": {"models", "errors"},
    "_transport": below(3),
    "_lists": below(4),
    "_waiting": below(5),
    "_creating": below(5),
    # It looks at servers and creates as creates do.
    "_pruning": below(5) | {"_creating"},
    "_verbs": below(6),
    "fleet": below(6) | {"_verbs"},
    # client.fleet() returns a Fleet.
    "_on_demand": below(6) | {"fleet"},
    "_shared": below(6) | {"_on_demand"},
    "client": below(6) | {"_on_demand", "_shared"},
    "": below(7),
    "audit": below(7),
    # These need an extra: nothing of ours imports them but a command that is asked to.
    "durable": below(8),
    "limiters": below(8),
    "metrics": below(8),
    # The demo and `vpsbackups fake` run the server to test against.
    "cli": below(9) | {"testing"},
    "__main__": {"cli"},
    "testing": set(),
    # Imported when one of its fixtures is first used.
    "pytest_vpsbackups": {"", "testing"},
}
EVERYBODY_MAY = {"_checks"}
# Beside these only `testing`, which is a server.
TOUCHES_AIOHTTP = {
    "_transport/exchange.py", "_transport/opening.py", "_transport/reasons.py", "client.py",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where that stands."""

    part: str
    file: str
    line: int
    module: str

    @property
    def of_ours(self) -> str | None:
        """The part that is imported, None for what is not ours."""
        name, _, rest = self.module.partition(".")
        return rest.partition(".")[0] if name == PACKAGE else None


def part_of(path: Path) -> str:
    if path == PLUGIN:
        return PLUGIN.stem
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The full name of every module that a source imports, wherever in it that stands.

    `from vpsbackups_async import x` counts as the part x if there is one: it loads that part.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_part = module == PACKAGE and alias.name in PARTS
                yield node.lineno, inner if is_part else module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"__import__", "import_module", "importlib.import_module"}:
                yield node.lineno, ast.unparse(node.args[0]).strip("'")
            elif name == "on_first_use" and isinstance(node.args[1], ast.Dict):
                homes = [ast.literal_eval(key) for key in node.args[1].keys if key is not None]
                yield from ((node.lineno, home) for home in homes)


SOURCES = sorted({*ROOT.rglob("*.py"), PLUGIN})
PARTS = {part_of(path) for path in SOURCES}


def imports_in(source: str, part: str, file: str, package: tuple[str, ...]) -> list[Import]:
    return [
        Import(part, file, line, module) for line, module in imported(ast.parse(source), package)
    ]


def all_imports() -> list[Import]:
    return [
        found
        for path in SOURCES
        for found in imports_in(
            path.read_text("utf-8"),
            part_of(path),
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
        and found.of_ours != found.part
        and found.of_ours not in MAY[found.part] | (EVERYBODY_MAY - {found.part})
    ]


def test_every_part_is_in_the_table_and_every_part_of_the_table_is_there() -> None:
    assert set(MAY) == PARTS
    assert set(LAYERS) == PARTS - {"testing"}


def test_imports_follow_the_table() -> None:
    assert breaches(IMPORTS) == []


def test_the_table_itself_points_down() -> None:
    sideways = {
        (part, other)
        for part, allowed in MAY.items()
        for other in allowed - {"testing"}
        if LAYERS[other] >= LAYERS[part]
    }
    assert sideways == {
        ("backoff", "models"),
        ("backoff", "_values"),
        ("_outcomes", "_values"),
        ("models", "_values"),
        ("_events", "events"),
        ("_statuses", "_pydantic"),
        ("models", "_pydantic"),
        ("models", "_statuses"),
        ("models", "_outcomes"),
        ("_wire", "_codec"),
        ("retention", "_tags"),
        ("_pruning", "_creating"),
        ("fleet", "_verbs"),
        ("_on_demand", "fleet"),
        ("_shared", "_on_demand"),
        ("client", "_on_demand"),
        ("client", "_shared"),
    }


def test_the_server_to_test_against_takes_nothing_of_ours() -> None:
    assert {found.of_ours for found in IMPORTS if found.part == "testing"} <= {None, "testing"}


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


def test_no_module_imports_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.of_ours is not None:
            here = ".".join((PACKAGE, *Path(found.file).with_suffix("").parts))
            graph.setdefault(here.removesuffix(".__init__"), set()).add(found.module)
    assert len(graph) > 40
    TopologicalSorter(graph).prepare()


def test_a_module_is_imported_by_a_name_that_is_worked_out_in_one_place_only() -> None:
    unnamed = {one.file for one in IMPORTS if not one.module.replace(".", "").isidentifier()}
    assert unnamed == {"_lazy.py"}


def late_names(tree: ast.Module) -> dict[str, set[str]]:
    """What a module tells `on_first_use`: names by the modules that have them."""
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "on_first_use"
    )
    (public,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    table = eval(ast.unparse(call.args[1]), {"__all__": public})
    return {home: set(names) for home, names in table.items() if names}


@pytest.mark.parametrize("file", ["__init__.py", "_events.py", "_on_demand.py"])
def test_type_checkers_are_told_the_same_of_late_names_as_the_running_program(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    told: dict[str, set[str]] = {}
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                told.setdefault(node.module or "", set()).update(one.name for one in node.names)
    assert told == late_names(tree)


def test_only_three_modules_of_the_transport_and_the_client_module_import_aiohttp() -> None:
    touching = {
        found.file
        for found in IMPORTS
        if found.module.partition(".")[0] == "aiohttp" and found.part != "testing"
    }
    assert touching == TOUCHES_AIOHTTP


def test_the_client_module_uses_aiohttp_for_the_types_of_its_arguments_only() -> None:
    tree = ast.parse((ROOT / "client.py").read_text("utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "aiohttp"
    }
    assert used == {"BaseConnector", "ClientSession"}


def private_of_others(source: str) -> set[str]:
    """The names with an underscore that are read or set on anything but `self` and `cls`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=value, attr=name):
                pass
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "delattr" | "hasattr"),
                args=[value, ast.Constant(value=str(name)), *_],
            ):
                pass
            case _:
                continue
        if name.startswith("_") and ast.unparse(value) not in {"self", "cls"}:
            names.add(name)
    return names


def test_nothing_private_of_aiohttp_is_touched_but_what_it_shows_nowhere_else() -> None:
    files = ("exchange.py", "opening.py", "reasons.py", "connections.py")
    sources = [(ROOT / "_transport" / file).read_text("utf-8") for file in files]
    touched = {name for source in sources for name in private_of_others(source)}
    # The middlewares of a session that was given would be left out without it.
    assert {name for name in touched if not name.startswith("__")} == {"_middlewares"}


@pytest.mark.parametrize(
    "source",
    ["session._connector", "response._closed = True", 'getattr(session, "_timeout", None)'],
)
def test_a_private_attribute_is_found_however_it_is_touched(source: str) -> None:
    assert private_of_others(source)


IO = {"aiohttp", "asyncio", "socket", "ssl", "os", "pathlib", "yarl"}


def test_decoding_and_retrying_do_no_io() -> None:
    parts = {"_checks", "models", "backoff", "errors", "_wire", "_codec"}
    modules = {found.module.partition(".")[0] for found in IMPORTS if found.part in parts}
    assert modules.isdisjoint(IO)


@pytest.mark.parametrize("file", ["attempts.py", "calls.py", "failures.py"])
def test_what_follows_from_an_attempt_is_decided_without_io_a_clock_or_chance(file: str) -> None:
    modules = {found.module for found in IMPORTS if found.file == f"_transport/{file}"}
    assert f"{PACKAGE}._wire" in modules
    assert {module.partition(".")[0] for module in modules}.isdisjoint(
        IO | {"time", "random", "datetime"}
    )
    sideways = {module for module in modules if module.startswith(f"{PACKAGE}._transport")}
    pure = ("calls", "failures", "retry", "timeouts")
    assert sideways <= {f"{PACKAGE}._transport.{name}" for name in pure}


ENDPOINT_WORDS = {"list", "create", "delete", "restore", "GET", "POST", "DELETE"}


@pytest.mark.parametrize("path", sorted((ROOT / "_transport").glob("*.py")), ids=lambda p: p.stem)
def test_the_transport_asks_for_no_endpoint_by_name(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    labels = {
        # The default of a public protocol's `kind`.
        default
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "acquire"
        for default in node.args.defaults
    }
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in ENDPOINT_WORDS and node not in labels
    ]
    compared = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.Match)
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and part.attr in {"kind", "method"}
    ]
    assert (found, compared) == ([], [])


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
        "try:\n    from vpsbackups_async._waiting.hub import WaitHub\nexcept ImportError: pass",
        "import importlib\nimportlib.import_module('vpsbackups_async.fleet')",
        "__import__('vpsbackups_async.testing')",
        "on_first_use(__name__, {'vpsbackups_async.client': ('BackupsClient',)})",
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


def test_importing_the_package_loads_no_server_no_command_line_and_nothing_rarely_used() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys, vpsbackups_async; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    loaded = set(done.stdout.split())
    assert {"aiohttp", PACKAGE, f"{PACKAGE}._wire"} <= loaded
    ours = (f"{PACKAGE}.testing.", f"{PACKAGE}.cli.", f"{PACKAGE}.audit.")
    others = ("rich.", "cyclopts.", "pydantic.", "pydantic_core.", "zoneinfo.")
    unused = (
        *("_creating.", "_waiting.", "_pruning.", "_bulk.", "_web."),
        *("_codec.", "_tags.", "_verbs."),
        *("_durations.", "_learned.", "_decisions.", "_periods.", "_places."),
        *("_lists.finder.", "_lists.search.", "_lists.sources.", "_lists.servers."),
        *("events.", "fleet.", "retention.", "limiters.", "metrics.", "durable."),
    )
    late = tuple(f"{PACKAGE}.{name}" for name in unused)
    unwanted = ("aiohttp.web", "cattrs.", *ours, *late, *others)
    assert [name for name in loaded if f"{name}.".startswith(unwanted)] == []
    assert done.stderr == ""
