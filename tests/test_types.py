"""What type checkers make of the package, and of the code in the README."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
from helpers_readme import APPS, SCRIPTS, SNIPPETS, TESTS

pytestmark = pytest.mark.timeout(300)  # a checker reads every package that is imported anew

FACE = Path(__file__).parent / "typing" / "public_face.py"
# What snippets take from those before them.
GIVEN = {"client": "BackupsClient", "backup": "Backup", "sweep": "Sweep[Backup]"}
MYPY = """[mypy]
strict = True
cache_dir = /dev/null
[mypy-django.*]
ignore_missing_imports = True
"""
# A snippet shows what it makes, and does not always use it.
PYRIGHT = (
    '{"typeCheckingMode": "strict", "reportUnusedVariable": false, "reportUnusedImport": false}'
)
DJANGO = "# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false\n"


def check(within: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """A checker's run in a folder, for the Python and the packages of these tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        encoding="utf-8",
        cwd=within,
        env=os.environ | {"PATH": path},
        check=False,
    )


def as_module(snippet: str) -> str:
    """The snippet as the body of a function that is given what it takes from others."""
    given = {name: GIVEN[name] for name in GIVEN if re.search(rf"\b{name}\b", snippet)}
    arguments = ", ".join(f"{name}: {kind}" for name, kind in given.items())
    # The snippets stand below `async with BackupsClient() as client:`.
    imported = {"BackupsClient", *re.findall(r"[A-Z]\w+", arguments)}
    return (
        f"from vpsbackups_async import {', '.join(imported)}\n\n\n"
        f"async def snippet({arguments}) -> None:\n{indent(snippet, '    ')}"
    )


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module for each Python example of the README, and the typing tests."""
    folder = tmp_path_factory.mktemp("examples")
    for number, block in enumerate(APPS + SCRIPTS + TESTS):
        head = DJANGO if "django" in block else ""
        # A test of the README imports this application.
        name = "recipe" if "from fastapi import FastAPI," in block else f"whole_{number}"
        (folder / f"{name}.py").write_text(head + block, "utf-8")
    for number, block in enumerate(SNIPPETS):
        (folder / f"snippet_{number}.py").write_text(as_module(block), "utf-8")
    (folder / "mypy.ini").write_text(MYPY, "utf-8")
    (folder / "pyrightconfig.json").write_text(PYRIGHT, "utf-8")
    return folder


def test_pyright_knows_the_type_of_every_public_symbol(tmp_path: Path) -> None:
    done = check(tmp_path, "pyright", "--verifytypes", "vpsbackups_async", "--ignoreexternal")
    assert "Type completeness score: 100%" in done.stdout, done.stdout


def test_the_readmes_code_passes_mypy_strict(examples: Path) -> None:
    done = check(examples, "mypy", ".")
    assert done.returncode == 0, done.stdout


def test_the_readmes_code_and_the_typing_tests_pass_pyright_strict(examples: Path) -> None:
    shutil.copy(FACE, examples)
    done = check(examples, "pyright")
    assert done.returncode == 0, done.stdout
