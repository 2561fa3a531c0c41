"""What pyproject.toml says of the project."""

import re
import tomllib
from typing import Any

from helpers_readme import README

PYPROJECT: dict[str, Any] = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))


def test_the_command_that_runs_the_tests_installs_every_extra_and_the_dev_group() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (command,) = (block for block in blocks if "-m pytest" in block)
    (extras,) = re.findall(r"-e '\.\[(.*?)\]' --group dev$", command, re.MULTILINE)
    assert set(extras.split(",")) == set(PYPROJECT["project"]["optional-dependencies"])
