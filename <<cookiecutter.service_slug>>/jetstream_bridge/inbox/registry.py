"""Which handler gets which event, decided when the service starts and not when one arrives.

An event has one handler. What belongs to a durable is the same for all handlers of its source.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.delays import RetryStrategy
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.core.subjects import validate_app
from jetstream_bridge.events.received_envelope import ReceivedEnvelope
from jetstream_bridge.events.upcasters import UpcastChain, UpcasterRegistry, UpcastFunction
from jetstream_bridge.inbox.handlers import (
    Handler,
    HandlerFunction,
    checked_patterns,
    event_handler,
    letter_handler,
    matches,
    overlap,
)
from jetstream_bridge.inbox.middleware.chain import Middlewares, Part, checked_parts
from jetstream_bridge.inbox.options import checked_retry, options
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec, durable_spec

H = TypeVar("H", bound=HandlerFunction)
U = TypeVar("U", bound=UpcastFunction)


class Consumers:
    """The handlers of a service, by source and event type."""

    def __init__(
        self, *, retry: RetryStrategy | None = None, resources: Collection[type] = ()
    ) -> None:
        """`retry` takes the place of the setting BACKOFF for every handler registered here.

        `resources` are the types that handlers and middlewares may ask for beside the bridge's
        own; what is passed for them is given to the bridge.
        """
        self.retry = checked_retry(retry)
        self.resources = resources
        self.middlewares = Middlewares(self.resources)
        self._upcasts = UpcasterRegistry()
        self._handlers: list[Handler] = []
        self._exact: dict[tuple[str | None, str], Handler] = {}

    def on(
        self,
        *event_types: str,
        source: str | None = None,
        isolated: bool = False,
        batch: int | None = None,
        within: str | float = 0.0,
        batch_size: int | None = None,
        concurrency: int | None = None,
        max_deliver: int | None = None,
        retry: RetryStrategy | None = None,
        schema_version: int | None = None,
        middlewares: Sequence[Part] = (),
        durable: str | None = None,
        ack_wait: str | float | None = None,
    ) -> Callable[[H], H]:
        """Register the decorated coroutine function for `event_types`.

        Each type is exact (`customer.created`), a prefix (`customer.*`), or `*`. `source` is a
        service other than the default destination; it gets a durable of its own.

        `batch` hands over a `list[Event[Model]]` of up to so many events, in one transaction;
        `within` is how long the first of them waits for more, in seconds or like `"200ms"`. When
        a batch fails it is halved until the event that fails is alone.

        `isolated` gives every event a transaction of its own: for a handler that calls another
        system. `batch_size` and `concurrency` are upper limits for this handler, within the
        worker's: how many of its events share a transaction, and how many transactions with its
        events run at a time in one process. `max_deliver` and `retry` take the place of the
        settings MAX_DELIVER and BACKOFF. `schema_version` is the highest one that it reads.
        `durable` and `ack_wait` belong to the durable consumer, which all handlers of a source
        share: one may name them for all.

        The function takes what it needs by annotation: `Event[Model]` or `Event[dict]`,
        `AsyncSession`, `Publisher`, `logging.Logger`, structlog's `BoundLogger`, or the type of a
        resource. Raises `RegistrationError` when it asks for something else, when another handler
        would get some of the same events, or when an option cannot be honoured.
        """
        patterns = checked_patterns(event_types)
        if source is not None:
            validate_app("source", source)
        how = options(
            isolated=isolated,
            batch=batch,
            within=within,
            batch_size=batch_size,
            concurrency=concurrency,
            max_deliver=max_deliver,
            retry=retry,
            durable=durable,
            ack_wait=ack_wait,
            schema_version=schema_version,
            middlewares=checked_parts(middlewares, self.resources),
        )

        def register(function: H) -> H:
            self._add(event_handler(function, patterns, source, how, self.resources))
            return function

        return register

    def on_dead_letter(
        self,
        *,
        isolated: bool = False,
        batch_size: int | None = None,
        concurrency: int | None = None,
        max_deliver: int | None = None,
        retry: RetryStrategy | None = None,
        middlewares: Sequence[Part] = (),
        durable: str | None = None,
        ack_wait: str | float | None = None,
    ) -> Callable[[H], H]:
        """Register the decorated coroutine function for this service's own dead letters.

        It asks for the `DeadLetter` by type, and for what other handlers may ask for. A letter
        that it has handled is acknowledged, and on a work queue gone with that. One that it
        fails for good stays in the stream, is logged as an error, and is not handed to it again.
        """
        how = options(
            isolated=isolated,
            batch=None,
            within=0.0,
            batch_size=batch_size,
            concurrency=concurrency,
            max_deliver=max_deliver,
            retry=retry,
            durable=durable,
            ack_wait=ack_wait,
            schema_version=None,
            middlewares=checked_parts(middlewares, self.resources),
        )

        def register(function: H) -> H:
            self._add(letter_handler(function, DEAD_LETTERS, how, self.resources))
            return function

        return register

    def use(self, *parts: Part) -> None:
        """Wrap every handler in these middlewares; the first one ever added is the outermost.

        An observer, which is told how each event ended, is added the same way.
        """
        self.middlewares.use(*parts)

    def upcast(
        self, event_type: str, *, from_version: int, source: str | None = None
    ) -> Callable[[U], U]:
        """Register the decorated function to bring a payload from `from_version` to the next.

        `event_type` is exact. The function gets the payload as a `dict` of its own and returns
        the new one, before it is validated. Raises `RegistrationError`, naming both places, when
        a step is there already or leaves a gap.
        """
        return self._upcasts.upcast(event_type, from_version=from_version, source=source)

    # --- adding

    def _add(self, new: Handler) -> None:
        for old in self._of(new.source):
            _refuse_overlap(old, new)
            for name in ("durable", "ack_wait"):
                _refuse_disagreement(name, old, new)
        self._handlers.append(new)
        for pattern in new.patterns:
            self._exact[new.source, pattern] = new

    def _of(self, source: str | None) -> Iterator[Handler]:
        return (handler for handler in self._handlers if handler.source == source)

    # --- asking

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers)

    @property
    def sources(self) -> tuple[str, ...]:
        """The services other than the default destination that handlers listen to."""
        named = {h.source for h in self._handlers if h.source not in (None, DEAD_LETTERS)}
        return tuple(sorted(source for source in named if source is not None))

    @property
    def wanted(self) -> list[type]:
        """The resources that a handler or a middleware asks for."""
        wants = [want for handler in self._handlers for want in self.middlewares.wants(handler)]
        return [kind for kind in self.resources if kind in {asked for _, asked in wants}]

    @property
    def on_letters(self) -> Handler | None:
        """The handler of dead letters."""
        return next(self._of(DEAD_LETTERS), None)

    def find(self, envelope: ReceivedEnvelope, source: str | None) -> Handler | None:
        """Return the handler of an event from `source`, however its type is spelled."""
        exact = self._exact.get((source, envelope.type))
        if exact is not None:
            return exact
        for event_type in (envelope.type, envelope.event_type):
            for handler in self._of(source):
                if any(matches(pattern, event_type) for pattern in handler.patterns):
                    return handler
        return None

    def steps(self, source: str | None) -> dict[str, UpcastChain]:
        """The up-casters for events of `source`, by type."""
        return self._upcasts.of(source)

    def limited(self, source: str | None) -> bool:
        """Whether a handler of `source` has limits of its own."""
        return any(handler.options.limited for handler in self._of(source))

    def largest_batch(self, source: str | None) -> int:
        """The most events that a handler of `source` takes at once; 0: each takes one."""
        return max((handler.options.batch or 0 for handler in self._of(source)), default=0)

    def durables(self, config: BridgeConfig) -> tuple[DurableSpec, ...]:
        """Return the durables that these handlers need; raise `RegistrationError` if two clash.

        There is one for the default destination whether or not a handler listens to it: its
        events have to go somewhere.
        """
        sources = [None, *self.sources]
        if self.on_letters is not None and config.use_dlq:
            sources.append(DEAD_LETTERS)
        specs: dict[str, DurableSpec] = {}
        for source in sources:
            spec = self._durable(config, source)
            other = specs.setdefault(spec.name, spec)
            if other is not spec:
                raise RegistrationError(
                    f"durable {spec.name!r} is to read {other.subject} and {spec.subject}, and a "
                    "durable reads one; name another for one of them"
                )
        return tuple(specs.values())

    def _durable(self, config: BridgeConfig, source: str | None) -> DurableSpec:
        if source == config.destination_app:
            [place, *_] = [handler.place for handler in self._of(source)]
            raise RegistrationError(
                f"{place} has source={source!r}, which is DESTINATION_APP: its events come without "
                "a source; leave it out"
            )
        name, ack_wait = None, None
        for handler in self._of(source):
            name = name or handler.options.durable
            ack_wait = ack_wait or handler.options.ack_wait
        return durable_spec(config, source, name=name, ack_wait=ack_wait)

    def check(self) -> None:
        """Raise `RegistrationError` where a handler and the up-casters disagree on a version, or
        where a middleware does not fit its handler.

        Called when a bridge is made, since only then is everything registered.
        """
        for handler in self._handlers:
            self.middlewares.check(handler)
            version = handler.options.schema_version
            for event_type, steps in self.steps(handler.source).items():
                fits = any(matches(pattern, event_type) for pattern in handler.patterns)
                if fits and version is not None and version != steps.target:
                    raise RegistrationError(
                        f"{handler.place} reads schema version {version} of {event_type!r}, and "
                        f"the last up-caster, {steps.last.place}, leads to {steps.target}; "
                        "make them agree"
                    )


def _refuse_overlap(old: Handler, new: Handler) -> None:
    for pattern in new.patterns:
        for other in old.patterns:
            if overlap(other, pattern):
                raise RegistrationError(
                    f"{new.place} is registered for {pattern!r}, and {old.place} for "
                    f"{other!r} already: an event has one handler; merge them, or narrow one"
                )


def _refuse_disagreement(name: str, old: Handler, new: Handler) -> None:
    """Both belong to the durable, and a source has only one: its events share a subject."""
    ours, theirs = getattr(new.options, name), getattr(old.options, name)
    if ours is not None and theirs is not None and ours != theirs:
        raise RegistrationError(
            f"{new.place} says {name}={ours!r}, and {old.place} says {name}={theirs!r}: all events "
            "of a source come through one durable; say it once, or say the same"
        )
