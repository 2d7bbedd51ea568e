"""The durable that a worker reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from jetstream_bridge.topology.durable_names import DurableSpec


@dataclass(frozen=True, slots=True)
class Durable:
    """Which consumer this is, and how to make sure that it is there."""

    spec: DurableSpec
    stream: str
    ensure: Callable[[], Awaitable[object]]
    made: Callable[[], str | None]  # which stream it is, as `ensure` found it; None: not known

    @property
    def name(self) -> str:
        return self.spec.name
