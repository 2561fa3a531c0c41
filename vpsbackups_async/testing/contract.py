"""The contract of the backups API as an OpenAPI 3.1 document."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["openapi"]


def openapi() -> dict[str, Any]:
    """The contract that the fake server keeps: what the provider documents and what is observed.

    It is read anew from the package's ``openapi.json`` each time, so the caller may change it.
    """
    text = resources.files(__package__).joinpath("openapi.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
