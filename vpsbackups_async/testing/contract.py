"""The backups API as an OpenAPI 3.1 document."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["openapi"]


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the API that the fake server implements.

    It covers what the provider documents and what was observed. Each call reads the package's
    ``openapi.json`` again, so the caller may modify the result.
    """
    text = resources.files(__package__).joinpath("openapi.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
