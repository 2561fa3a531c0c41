"""Names of a module that are loaded from others when they are first used (PEP 562).

This is the one way to leave out of `import vpsbackups_async` what costs it too much and many
programs never use. A module with such names imports them under `TYPE_CHECKING`, where type checkers
find them, and tells `on_first_use` the same for the running program. An annotation that has one is
written as the text `"module.Name"`, so that `typing.get_type_hints` finds it there.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["on_first_use"]


def on_first_use(module: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of this module, for the `names` that others have.

    Of a package, it gives those of the others that are in it as well.
    """
    homes = {name: home for home, those in names.items() for name in those}
    inner = {home.removeprefix(f"{module}."): home for home in names}

    def load(name: str) -> Any:
        if name in inner:
            return import_module(inner[name])  # which makes it an attribute
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        # It is an ordinary name of the module from now on.
        setattr(sys.modules[module], name, value)
        return value

    return load
