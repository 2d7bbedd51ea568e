"""Faults by name. Each hits what it is told to, as often as it is told to, and no more.

    server.faults.lose_ack()                       the next acknowledgement, its message is stored
    server.faults.lose_publish(times=2)            the next two messages, and their answers
    server.faults.refuse_publish(10077, times=3)   answered with an error
    server.faults.slow("200ms")                    everything the server says comes later

What a fault still has to do is in `pending`; `clear()` ends them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jetstream_bridge.core.durations import seconds
from jetstream_bridge.core.subjects import matches
from jetstream_bridge.testing.errors import ApiFault

_REASONS = {
    10002: (400, "resource limits exceeded for account"),
    10008: (503, "JetStream system temporarily unavailable"),
    10054: (400, "message size exceeds maximum allowed"),
    10060: (400, "expected stream does not match"),
    10077: (503, "maximum messages exceeded"),
    10158: (409, "duplicate message id is in process"),
}


class Kind(Enum):
    """What goes wrong."""

    LOSE_ACK = "lose the answer to a publish that was stored"
    LOSE_PUBLISH = "lose a publish before it is stored"
    DELAY_ACK = "answer a publish later"
    REFUSE_PUBLISH = "refuse a publish"
    LOSE_ANSWER = "lose an acknowledgement of a delivery"
    NO_API = "give no answer to a request of JetStream's API"


@dataclass(slots=True)
class Fault:
    """One fault: its kind, the subjects that it concerns, and how often it is still to come."""

    kind: Kind
    subject: str
    left: int
    delay: float = 0.0
    error: ApiFault | None = None

    def __str__(self) -> str:
        return f"{self.kind.value} on {self.subject}, {self.left} times more"


@dataclass(frozen=True, slots=True)
class Denial:
    """Something that the server does not permit."""

    kind: str  # "publish" or "subscription"
    subject: str


class Faults:
    """The faults of one server, those still to come."""

    def __init__(self) -> None:
        self.denials: set[Denial] = set()
        self.latency = 0.0  # seconds that everything the server says takes
        self._faults: list[Fault] = []

    @property
    def pending(self) -> list[str]:
        """What has still to happen, for a person."""
        return [str(fault) for fault in self._faults]

    def clear(self) -> None:
        self._faults.clear()
        self.denials.clear()
        self.latency = 0.0

    # --- publishing

    def lose_ack(self, subject: str = ">", *, times: int = 1) -> None:
        """Store the message and lose its acknowledgement."""
        self._add(Fault(Kind.LOSE_ACK, subject, times))

    def lose_publish(self, subject: str = ">", *, times: int = 1) -> None:
        """Lose the message before it is stored."""
        self._add(Fault(Kind.LOSE_PUBLISH, subject, times))

    def delay_ack(self, delay: str, subject: str = ">", *, times: int = 1) -> None:
        """Store the message at once and acknowledge it later."""
        self._add(Fault(Kind.DELAY_ACK, subject, times, delay=seconds(delay)))

    def refuse_publish(self, err_code: int, subject: str = ">", *, times: int = 1) -> None:
        """Answer with an error of JetStream's, by its `err_code`."""
        code, description = _REASONS.get(err_code, (500, "refused"))
        error = ApiFault(code, err_code, description)
        self._add(Fault(Kind.REFUSE_PUBLISH, subject, times, error=error))

    # --- consuming and asking

    def lose_answer(self, subject: str = "$JS.ACK.>", *, times: int = 1) -> None:
        """Lose what a consumer says about a delivery: `+ACK`, `-NAK`, `+TERM`."""
        self._add(Fault(Kind.LOSE_ANSWER, subject, times))

    def ignore_api(self, subject: str = "$JS.API.>", *, times: int = 1) -> None:
        """Give no answer to a request such as `$JS.API.STREAM.INFO.*`."""
        self._add(Fault(Kind.NO_API, subject, times))

    # --- as long as it lasts

    def slow(self, latency: str) -> None:
        """Let everything that the server says come later, until `clear()` or `slow("0s")`."""
        self.latency = seconds(latency)

    def deny_publish(self, subject: str) -> None:
        """Refuse clients the right to publish on `subject`, until `permit` or `clear()`."""
        self.denials.add(Denial("publish", subject))

    def deny_subscribe(self, subject: str) -> None:
        """Refuse clients the right to subscribe to `subject`, from the next subscription on."""
        self.denials.add(Denial("subscription", subject))

    def permit(self, subject: str) -> None:
        self.denials = {denial for denial in self.denials if denial.subject != subject}

    # --- what the server asks

    def denied(self, kind: str, subject: str) -> bool:
        return any(d.kind == kind and matches(d.subject, subject) for d in self.denials)

    def take(self, kind: Kind, subject: str) -> Fault | None:
        """Return the first fault of this kind for `subject`, one occurrence of it used up."""
        for fault in self._faults:
            if fault.kind is kind and matches(fault.subject, subject):
                fault.left -= 1
                if fault.left <= 0:
                    self._faults.remove(fault)
                return fault
        return None

    def _add(self, fault: Fault) -> None:
        if fault.left < 1:
            raise ValueError(f"times is {fault.left}; a fault happens once or more")
        self._faults.append(fault)
