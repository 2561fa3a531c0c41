"""The events that a client tells in a test."""

from typing import TypeVar

from vpsbackups_async.events import Event

E = TypeVar("E", bound=Event)


class Heard:
    """A callback for `on_event` that keeps what it hears."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.all.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.all if isinstance(event, kind)]
