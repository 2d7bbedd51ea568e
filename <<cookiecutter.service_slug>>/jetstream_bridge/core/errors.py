"""Every error the bridge raises, in one tree.

    BridgeError
    ├── ConfigurationError          a setting, or two that do not go together
    ├── InvalidSubjectError         a subject, or a part of one, that NATS would refuse or misread
    │   └── UnknownSubjectError     ... or that the stream does not take
    ├── InvalidEventError           an event that cannot be built from what was given
    ├── EnvelopeError               a message body that is not an envelope
    │   └── MalformedJSONError      ... because it is not JSON at all
    ├── PayloadError                a payload that does not fit the handler's model
    ├── UpcastError                 a payload that its up-casters could not bring to this version
    ├── FutureSchemaError           an event of a schema version that this service does not know
    ├── NatsConnectionError
    │   ├── NotConnectedError       nothing was sent
    │   ├── RequestTimeoutError     sent, and no answer in time
    │   ├── NoRespondersError       sent, and nobody listens
    │   ├── PermissionDeniedError   refused by the server
    │   └── JetStreamUnavailableError   JetStream is off, or without a leader
    ├── TopologyError               the stream or a consumer is not as this service needs it
    │   ├── ApiError                JetStream refused a request
    │   ├── StreamMissingError
    │   └── ConsumerMissingError
    ├── PublishError                an event that was not accepted by the stream
    │   ├── PublishRefusedError     ... because of the event itself: trying again cures nothing
    │   ├── PublishUnavailableError ... because of the outside: the event is fine, try again
    │   ├── SessionEndedError       ... because nothing will commit it any more
    │   ├── BatchPublishError       some events of a batch were not accepted
    │   └── BatchStateError         a batch used before or after its time
    ├── OperationError              what a person asked for cannot be done
    │   ├── NotFoundError           ... because there is no such row, letter or page
    │   └── NotPossibleError        ... because of the state that it is in
    ├── RegistrationError           a handler that cannot be registered as written
    ├── ResourceError               what a process needs beside the bridge cannot be opened
    └── HandlerError
        ├── Unrecoverable           raised by a handler: to the dead letters at once
        ├── Retry                   raised by a handler: again after a delay of its choice
        ├── HandlerExitError    a handler ended in a cancellation or an exit of its own making
        ├── HandlerTimeoutError     a handler that took longer than its Timeout allows
        └── TransactionControlError a handler committed or rolled back the worker's transaction

Leaves are named for the fault. Each message quotes the bad value and says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetstream_bridge.outbox.publish_result import BatchResult


class BridgeError(Exception):
    """Base of everything the bridge raises on purpose."""


class ConfigurationError(BridgeError):
    """A setting is wrong, or two settings contradict each other."""


class InvalidSubjectError(BridgeError, ValueError):
    """A subject or one of its parts holds what NATS would refuse or misread."""


class UnknownSubjectError(InvalidSubjectError):
    """The stream takes no events on this subject, and it is not this service's to add."""


class InvalidEventError(BridgeError, ValueError):
    """The event cannot be built from these arguments; nothing was written or sent."""


class EnvelopeError(BridgeError, ValueError):
    """A message body is JSON but not an envelope."""


class MalformedJSONError(EnvelopeError):
    """A message body is not JSON, or not UTF-8."""


class PayloadError(BridgeError, ValueError):
    """An event's payload does not fit the model that its handler declares."""


class UpcastError(BridgeError, ValueError):
    """An up-caster failed, or none leads on from the event's schema version."""


class FutureSchemaError(BridgeError, ValueError):
    """An event's schema version is higher than any that this service knows."""


class NatsConnectionError(BridgeError):
    """The connection to NATS is not usable."""


class NotConnectedError(NatsConnectionError):
    """There is no connection; nothing was sent."""


class RequestTimeoutError(NatsConnectionError):
    """A request was sent and not answered in time; whether it took effect is unknown."""


class NoRespondersError(NatsConnectionError):
    """Nobody listens on the subject; for JetStream's own it means that JetStream is off."""


class PermissionDeniedError(NatsConnectionError):
    """The server refuses this user the subject; nothing was done."""


class JetStreamUnavailableError(NatsConnectionError):
    """JetStream is off, or without a leader just now."""


class TopologyError(BridgeError):
    """The stream or a consumer is not as this service needs it."""


class ApiError(TopologyError):
    """JetStream refused a management request."""

    def __init__(self, subject: str, error: Mapping[str, Any]) -> None:
        self.code: int = error.get("code", 0)
        self.err_code: int = error.get("err_code", 0)
        self.description: str = error.get("description", "no description")
        super().__init__(f"{subject}: {self.description} ({self.err_code})")


class StreamMissingError(TopologyError):
    """The stream does not exist, and this service may not create it."""


class ConsumerMissingError(TopologyError):
    """The durable consumer does not exist, and this service may not create it."""


class PublishError(BridgeError):
    """The stream did not accept an event.

    `event_id` and `subject` say which one; `tries` how often it was sent or would have been.
    """

    def __init__(
        self, message: str, *, event_id: str = "", subject: str = "", tries: int = 1
    ) -> None:
        super().__init__(message)
        self.event_id = event_id
        self.subject = subject
        self.tries = tries


class PublishRefusedError(PublishError):
    """The stream refused this very event; trying it again as it is cures nothing."""


class PublishUnavailableError(PublishError):
    """The stream could not be reached, or did not answer; the event itself is fine."""


class SessionEndedError(PublishError):
    """The session was closed, or its commit is under way: the event would not be written.

    Publish before the commit; in a background task open a session of its own and commit it.
    """

    def __init__(self, what: str, *, event_id: str = "", subject: str = "") -> None:
        super().__init__(
            f"the event {event_id} cannot be announced: {what}. Publish before the commit; "
            "in a background task open a session of its own, publish in it, and commit it",
            event_id=event_id,
            subject=subject,
        )


class OperationError(BridgeError):
    """What a person asked for cannot be done; nothing was changed."""


class NotFoundError(OperationError):
    """There is no such row or letter."""


class NotPossibleError(OperationError):
    """It is there, and its state forbids what was asked for."""


class BatchPublishError(PublishError):
    """Some events of a batch were not accepted; `result` tells which, and why."""

    def __init__(self, message: str, result: BatchResult) -> None:
        super().__init__(message)
        self.result = result


class BatchStateError(PublishError):
    """A batch was asked for its result before its block ended, or given an event after that."""


class RegistrationError(BridgeError, TypeError):
    """A handler cannot be registered as written."""


class ResourceError(BridgeError):
    """A resource of the service could not be opened, so its process does not start."""


class HandlerError(BridgeError):
    """Base of what a handler raises to steer the worker."""


class Unrecoverable(HandlerError):  # noqa: N818 - reads as the sentence a handler says
    """The event can never be handled: it goes to the dead letters at once."""


class Retry(HandlerError):  # noqa: N818 - reads as the sentence a handler says
    """Handle the event again later.

    `delay` is in seconds; without it the configured back-off decides.
    """

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        super().__init__(message or "the handler asked for another try")
        self.delay = delay


class HandlerTimeoutError(HandlerError, TimeoutError):
    """A handler took longer than its `Timeout` allows and was cancelled; it is tried again."""


class HandlerExitError(HandlerError):
    """A handler raised what ends tasks or processes: `CancelledError`, `SystemExit` and the like.

    Nobody had asked for that, so it is a failure like any other. `__cause__` is what it raised.
    """


class TransactionControlError(HandlerError):
    """A handler committed or rolled back; the transaction belongs to the worker.

    Its inbox row, its writes and its events commit together, after it returns. Use
    `session.begin_nested()` for a part that may fail on its own.
    """
