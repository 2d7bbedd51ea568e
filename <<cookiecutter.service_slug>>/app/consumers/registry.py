"""Where handlers register: `@consumers.on("customer.created")`."""

from __future__ import annotations

from app.bridge import Consumers

consumers = Consumers()
