"""Options of one registration, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jetstream_bridge.core.delays import RetryStrategy
from jetstream_bridge.core.durations import seconds
from jetstream_bridge.core.errors import ConfigurationError, RegistrationError
from jetstream_bridge.core.subjects import validate_durable
from jetstream_bridge.inbox.middleware.chain import Part

MOST_IN_A_BATCH = 1000  # events


LONGEST_WITHIN = 10.0  # seconds; a message that only waits is not kept alive for longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one registration is handled. None: as the service's settings say."""

    isolated: bool = False
    batch: int | None = None  # it takes a list of at most so many events
    within: float = 0.0  # seconds that the first of a batch waits for more
    batch_size: int | None = None  # at most so many of its events share a transaction
    concurrency: int | None = None  # at most so many transactions with its events at a time
    max_deliver: int | None = None
    retry: RetryStrategy | None = None
    durable: str | None = None  # of the whole source
    ack_wait: float | None = None  # of the whole source
    schema_version: int | None = None  # the highest one that it reads
    middlewares: tuple[Part, ...] = ()

    @property
    def limited(self) -> bool:
        return self.batch_size is not None or self.concurrency is not None


def options(
    *,
    isolated: bool,
    batch: int | None,
    within: str | float,
    batch_size: int | None,
    concurrency: int | None,
    max_deliver: int | None,
    retry: RetryStrategy | None,
    durable: str | None,
    ack_wait: str | float | None,
    schema_version: int | None,
    middlewares: tuple[Part, ...],
) -> Options:
    """Return checked options; raise `RegistrationError` naming what cannot be honoured."""
    for name, value in (
        ("batch", batch),
        ("batch_size", batch_size),
        ("concurrency", concurrency),
        ("max_deliver", max_deliver),
        ("schema_version", schema_version),
    ):
        if value is not None and (isinstance(value, bool) or not _is_count(value)):
            raise RegistrationError(f"{name}={value!r} is no number of times; write 1 or more")
    if isolated and batch_size not in (None, 1):
        raise RegistrationError(
            f"isolated=True gives each event a transaction of its own, and batch_size={batch_size} "
            "lets several share one; keep one of the two"
        )
    return Options(
        isolated=isolated,
        batch=_checked_batch(batch, isolated=isolated, batch_size=batch_size),
        within=_checked_within(within, batch),
        batch_size=batch_size,
        concurrency=concurrency,
        max_deliver=max_deliver,
        retry=checked_retry(retry),
        durable=None if durable is None else validate_durable(durable),
        ack_wait=_checked_ack_wait(ack_wait),
        schema_version=schema_version,
        middlewares=middlewares,
    )


def _checked_batch(batch: int | None, *, isolated: bool, batch_size: int | None) -> int | None:
    if batch is None:
        return None
    if batch > MOST_IN_A_BATCH:
        raise RegistrationError(
            f"batch={batch} is more than one transaction should hold; write 1 to {MOST_IN_A_BATCH}"
        )
    for name, given in (("isolated=True", isolated), (f"batch_size={batch_size}", batch_size)):
        if given:
            raise RegistrationError(
                f"batch={batch} gives the handler a list of events in one transaction, and {name} "
                "is for a handler that takes one; leave it out"
            )
    return batch


def _checked_within(value: str | float, batch: int | None) -> float:
    wait = _duration("within", value)
    if not 0 <= wait <= LONGEST_WITHIN:
        raise RegistrationError(
            f"within={value!r} is out of range; write a time of up to {LONGEST_WITHIN:g}s, "
            "like '200ms'"
        )
    if wait and batch is None:
        raise RegistrationError(
            f"within={value!r} is how long a batch is filled; say batch=, too, or leave it out"
        )
    return wait


def _duration(name: str, value: str | float) -> float:
    try:
        return seconds(value)
    except ConfigurationError as error:
        raise RegistrationError(f"{name}={value!r}: {error}") from error


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def checked_retry(retry: RetryStrategy | None) -> RetryStrategy | None:
    if retry is None or (isinstance(retry, RetryStrategy) and not isinstance(retry, type)):
        return retry
    raise RegistrationError(
        f"retry={retry!r} is no retry strategy; give one like Exponential(cap='1m') or "
        "Delays(['1s', '5s']), or an object with a method `delay(attempt)`"
    )


def _checked_ack_wait(value: str | float | None) -> float | None:
    if value is None:
        return None
    wait = _duration("ack_wait", value)
    if not 0 < wait < math.inf:
        raise RegistrationError(f"ack_wait={value!r} is no time at all; write one like '30s'")
    return wait
