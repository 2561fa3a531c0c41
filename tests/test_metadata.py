"""What pyproject.toml says of the project, and the long description that a package index shows."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from html.parser import HTMLParser
from importlib.metadata import packages_distributions
from itertools import chain
from typing import Any

import pytest
from helpers_readme import BLOCKS, README
from readme_renderer.markdown import render

PYPROJECT: dict[str, Any] = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))


def test_the_command_that_runs_the_tests_installs_every_extra_and_the_dev_group() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (command,) = (block for block in blocks if "-m pytest" in block)
    (extras,) = re.findall(r"-e '\.\[(.*?)\]' --group dev$", command, re.MULTILINE)
    assert set(extras.split(",")) == set(PYPROJECT["project"]["optional-dependencies"])


def named_in(requirements: Iterable[str]) -> set[str]:
    """The packages that these requirements name; `cattrs[msgspec]` names two."""
    return {
        name
        for requirement in requirements
        for name in re.findall(r"[\w.-]+", re.split(r"[<>=;]", requirement)[0])
    }


def imported_by(folder: str) -> set[str]:
    """The first part of the name of each module that the sources in the folder import."""
    return {
        name.partition(".")[0]
        for path in (README.parent / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }


@pytest.mark.parametrize(
    ("folder", "groups"),
    [("vpsbackups_async", []), ("tests", ["dev"]), ("benchmarks", ["dev", "bench"])],
)
def test_what_the_sources_import_of_others_is_named_as_a_requirement(
    folder: str, groups: list[str]
) -> None:
    project = PYPROJECT["project"]
    named = named_in(
        [
            project["name"],
            *project["dependencies"],
            *chain.from_iterable(project["optional-dependencies"].values()),
            *chain.from_iterable(PYPROJECT["dependency-groups"][group] for group in groups),
        ]
    )
    packages = packages_distributions()
    unnamed = {
        module
        for module in imported_by(folder)
        if module in packages
        and named.isdisjoint(package.replace("_", "-").lower() for package in packages[module])
    }
    assert unnamed == set()


class Targets(HTMLParser):
    """Where the links and pictures of a page lead, and the anchors that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.pictures: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            kept = {"href": self.links, "src": self.pictures, "id": self.anchors}.get(name)
            if kept is not None:
                kept.add(value or "")

    @property
    def broken(self) -> set[str]:
        """What leads nowhere where the page stands alone."""
        inside = {f"#{anchor}" for anchor in self.anchors}
        return {
            target
            for target in self.links | self.pictures
            if not target.startswith("https://") and target not in inside
        }


@pytest.fixture(scope="module")
def long_description() -> str:
    """As the build writes it into the metadata."""
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", "-m", "hatch_fancy_pypi_readme"],
        capture_output=True,
        encoding="utf-8",
        cwd=README.parent,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rendered(text: str) -> Targets:
    page = render(text)
    assert page is not None
    return Targets(page)


def test_every_link_and_picture_of_the_long_description_leads_somewhere(
    long_description: str,
) -> None:
    page = rendered(long_description)
    assert page.broken == set()
    assert page.links


def test_only_paths_to_files_are_taken_out_of_the_readme(long_description: str) -> None:
    readme, shown = rendered(README.read_text("utf-8")), rendered(long_description)
    assert readme.broken > readme.pictures
    assert shown.links == readme.links - readme.broken
    assert shown.anchors == readme.anchors


def test_the_long_description_has_the_code_of_the_readme_as_it_is(long_description: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", long_description, re.DOTALL | re.MULTILINE)
    assert blocks == BLOCKS
    assert long_description.count("```") == README.read_text("utf-8").count("```")
