"""What became of an event, or of a batch of them. A result says what the outside did; what the
caller did wrong is raised instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from jetstream_bridge.core.errors import BatchPublishError, BridgeError


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What became of one event.

    With the outbox, `success` means: it will be announced if the transaction commits. Without
    it: the stream has it. `duplicate` tells that an event with this id was there before; it is
    announced once. `error` is why an event was not accepted.
    """

    success: bool
    event_id: str
    subject: str
    duplicate: bool = False
    error: BridgeError | None = None

    def raise_on_failure(self) -> Self:
        """Return this result if it is a success, and raise its `error` otherwise."""
        if self.error is not None:
            raise self.error
        return self


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch: one result for each event, in the order in which it was added."""

    results: tuple[PublishResult, ...]

    @property
    def succeeded(self) -> tuple[PublishResult, ...]:
        return tuple(result for result in self.results if result.success)

    @property
    def failed(self) -> tuple[PublishResult, ...]:
        return tuple(result for result in self.results if not result.success)

    @property
    def duplicates(self) -> tuple[PublishResult, ...]:
        return tuple(result for result in self.results if result.duplicate)

    @property
    def success(self) -> bool:
        """Every event was accepted; an empty batch is a success."""
        return all(result.success for result in self.results)

    @property
    def partial_success(self) -> bool:
        """Some events were accepted and some were not."""
        return any(result.success for result in self.results) and not self.success

    def raise_on_failure(self) -> Self:
        """Return this result if it is a success, and raise `BatchPublishError` otherwise."""
        failed = [(n, r) for n, r in enumerate(self.results, 1) if not r.success]
        if failed:
            number, first = failed[0]
            raise BatchPublishError(
                f"{len(failed)} of {len(self.results)} events of the batch were not published; "
                f"the first is event {number} ({first.event_id or 'without an id'}): {first.error}",
                self,
            )
        return self

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[PublishResult]:
        return iter(self.results)

    def __getitem__(self, index: int) -> PublishResult:
        return self.results[index]
