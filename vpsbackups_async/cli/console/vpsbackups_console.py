"""The command `vpsbackups`: Ctrl-C while the package is still being imported ends it in silence.

A module of its own once installed, as a module of the package would be imported after it.
"""

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run one command; its exit code."""
    try:
        from vpsbackups_async.cli import main as run  # noqa: PLC0415  # takes long, see above

        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED
