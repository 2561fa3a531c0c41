"""The API reference is built from the docstrings by the command that the README names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_readme import README

import vpsbackups_async
from vpsbackups_async import durable, limiters

(MODULES,) = re.findall(
    r"`PDOC_ALLOW_EXEC=1 \.venv/bin/python -m pdoc -o build/reference ([\w. ]+)`",
    README.read_text("utf-8"),
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the reference, built where every warning is an error."""
    folder = tmp_path_factory.mktemp("reference")
    # pdoc warns of a default that the environment happens to hold as well, such as the API's URL.
    environment = {**os.environ, "PDOC_DISPLAY_ENV_VARS": "1", "PDOC_ALLOW_EXEC": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pdoc", "-o", str(folder), *MODULES.split()],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def entries(page: Path) -> set[str]:
    """The names that a page documents, without those inside a class."""
    return set(re.findall(r'<section id="(\w+)">', page.read_text("utf-8")))


def test_the_reference_has_an_entry_for_every_public_name(reference: Path) -> None:
    assert entries(reference / "vpsbackups_async.html") == set(vpsbackups_async.__all__)


def test_the_reference_has_a_page_for_every_module_that_the_command_names(reference: Path) -> None:
    pages = [reference / f"{module.replace('.', '/')}.html" for module in MODULES.split()]
    assert [page for page in pages if not page.is_file()] == []
    assert entries(reference / "vpsbackups_async/limiters.html") == set(limiters.__all__)
    assert entries(reference / "vpsbackups_async/durable.html") == set(durable.__all__)


def test_no_page_shows_a_private_module(reference: Path) -> None:
    names = {str(page.relative_to(reference)) for page in reference.rglob("*.html")}
    assert {"index.html", "vpsbackups_async.html"} <= names
    assert [name for name in names if re.search(r"(^|/)_", name)] == []
