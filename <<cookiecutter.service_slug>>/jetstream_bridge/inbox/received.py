"""What the inbox keeps of one delivery, and the place that tells a message from any other."""

from __future__ import annotations

from dataclasses import dataclass

# A message's sequence, and the microseconds since 1970 at which the stream stored it.
Place = tuple[int, int]


@dataclass(slots=True)
class Received:
    """What the inbox keeps of one delivery."""

    key: str  # the event id
    subject: str
    data: bytes | None  # the envelope as it came; None when it is no JSON object
    headers: dict[str, str]
    stream: str
    seq: int
    stored_us: int
    deliveries: int

    @property
    def place(self) -> Place:
        return self.seq, self.stored_us

    @property
    def body(self) -> str | None:
        """The envelope's text, made when it is written: what only waits is held once."""
        return None if self.data is None else self.data.decode()
