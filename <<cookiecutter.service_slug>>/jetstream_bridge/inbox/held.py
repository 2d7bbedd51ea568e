"""Messages in hand by their places, with what they take together."""

from __future__ import annotations

from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.received import Place


class Held(dict[Place, Delivery]):
    """Deliveries by their places, and the bytes of all together."""

    bytes = 0

    def __setitem__(self, place: Place, delivery: Delivery) -> None:
        before = self.get(place)
        self.bytes += delivery.size if before is None else delivery.size - before.size
        dict.__setitem__(self, place, delivery)

    def pop(self, place: Place, default: None = None) -> Delivery | None:  # type: ignore[override]
        delivery = dict.pop(self, place, default)
        if delivery is not None:
            self.bytes -= delivery.size
        return delivery

    def __delitem__(self, place: Place) -> None:
        self.bytes -= self[place].size
        super().__delitem__(place)
