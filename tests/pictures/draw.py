"""Draws `demo.svg` beside this file from a run of the demo: `python tests/pictures/draw.py`."""

import asyncio
import io
import re
from pathlib import Path

from rich.console import Console, RenderableType

from vpsbackups_async.cli.commands.demo import play
from vpsbackups_async.cli.screen import Screen

PICTURE = Path(__file__).with_name("demo.svg")
SHOWN = 11
"""The paint that is drawn: after nearly 3 seconds, when some servers are done and some are not."""


class Recorder(Screen):
    """A screen of 80 columns that keeps a picture of one paint."""

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        self.out = self.err = self.console = Console(
            record=True, width=80, force_terminal=True, file=io.StringIO()
        )
        self.svg = ""
        self._paints = 0

    def result(self, text: str) -> None:
        """Keep the results: they are above the live display in the picture."""
        self.console.print(text, highlight=False)

    def paint(self, shown: RenderableType | None) -> None:
        """Draw the paint with the number `SHOWN`."""
        self._paints += shown is not None
        if self._paints == SHOWN and not self.svg:
            self.console.print(shown)
            self.svg = self.console.export_svg(title="vpsbackups demo")


def main() -> None:
    """Run the demo, and write the picture."""
    screen = Recorder()
    asyncio.run(play(screen))
    # Fonts are not loaded from other sites, and names and the port are the same in each run.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", screen.svg, flags=re.DOTALL)
    svg = re.sub(r"terminal-\d+", "demo", svg)
    PICTURE.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:40123", svg), "utf-8")


if __name__ == "__main__":
    main()
