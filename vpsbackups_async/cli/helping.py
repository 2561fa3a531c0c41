"""The text of the help of each command, and its layout.

Each option takes one line, so that the help of a command fits a screen of 24 lines.
"""

import pkgutil
from importlib.util import decode_source
from typing import Any, Final

from cyclopts.help import HelpEntry, HelpPanel, InlineText
from rich.console import Console, ConsoleOptions
from rich.text import Text

__all__ = ["OF_EVERY_COMMAND", "PACKAGE", "Help", "help_of"]

OF_EVERY_COMMAND: Final = "Of every command"
"""The title of the options that every command has; their names take one line."""

PACKAGE: Final = "vpsbackups_async.cli.commands"
"""The package with a module for each command."""


def help_of(command: str) -> dict[str, str]:
    """The help of a command as arguments for `App`, from the docstring of its module.

    That docstring says what the command does, and then has a line `Usage: ...` and indented
    examples. It is read from the source, because `--help` must not load the modules of all
    commands. Where there are no sources, as in a frozen application, the help lacks these texts.
    """
    try:
        source = pkgutil.get_data(PACKAGE, f"{command}.py")
    except OSError:
        source = None
    if source is None:
        return {}
    docstring = decode_source(source).split('"""')[1]
    description, _, rest = docstring.partition("\n\nUsage: ")
    usage, _, examples = rest.partition("\n\n")
    return {"help": description, "usage": usage, "help_epilogue": f"Examples:\n{examples}".strip()}


class Help:
    """A help formatter for cyclopts: no boxes, names on the left, meanings on the right."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:  # noqa: ARG002  # part of the protocol
        """Print one group of options or commands."""
        if not panel.entries:
            return
        console.print(Text(f"{panel.title}:", style="bold"))
        if panel.title == OF_EVERY_COMMAND:  # the help of all commands tells what they mean
            console.print(Text(f"  {'  '.join(map(_names, panel.entries))}", style="cyan"))
            return
        width = max(len(_names(entry)) for entry in panel.entries)
        for entry in panel.entries:
            names = Text(f"  {_names(entry):<{width}}  ", style="cyan")
            console.print(names.append_text(_meaning(entry)))

    @staticmethod
    def render_usage(console: Console, options: ConsoleOptions, usage: Any) -> None:  # noqa: ARG004  # part of the protocol
        """Print the usage line."""
        console.print(Text(f"Usage: {str(usage).strip().removeprefix('Usage: ')}", style="bold"))

    @staticmethod
    def render_description(console: Console, options: ConsoleOptions, description: Any) -> None:  # noqa: ARG004  # part of the protocol
        """Print the description."""
        console.print(description)


def _names(entry: HelpEntry) -> str:
    if entry.positional_label:
        return entry.metavar or entry.positional_label
    names = ", ".join((*entry.positive_shorts, *entry.positive_names))
    return f"{names} {entry.metavar}" if entry.metavar else names


def _meaning(entry: HelpEntry) -> Text:
    said = entry.description
    meaning = said.primary_renderable if isinstance(said, InlineText) else said
    return Text(str(meaning), style="default")
