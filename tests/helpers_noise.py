"""The warnings about what is left unclosed, and what the event loop complains about."""

import asyncio
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Noise:
    """The warnings, and what the event loop complained about."""

    def __init__(self) -> None:
        self.warnings: list[warnings.WarningMessage] = []
        self.complaints: list[dict[str, Any]] = []

    def assert_one_warning_of_ours(self) -> None:
        said = [f"{seen.category.__name__}: {seen.message}" for seen in self.warnings]
        assert len(said) == 1, said
        assert said[0].startswith("ResourceWarning: unclosed <BackupsClient of http://127.0.0.1:")
        assert "async with BackupsClient(...)" in said[0]
        assert self.complaints == []


@contextmanager
def listening() -> Iterator[Noise]:
    noise = Noise()
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield noise
        gc.collect()
        noise.warnings = list(caught)


def complain_to(noise: Noise) -> None:
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: noise.complaints.append(context)
    )
