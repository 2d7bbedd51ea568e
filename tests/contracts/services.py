"""A service's declarations and handlers, and what it then says of its events."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from jetstream_bridge import BridgeConfig, Consumers, Event
from jetstream_bridge.contracts.catalog import EventCatalog, event_catalog
from jetstream_bridge.contracts.released import Contract, contract_of
from jetstream_bridge.events.declared_events import DeclaredEvents


class Line(BaseModel):
    product: str
    amount: int = 1


class Placed(BaseModel):
    """An order is there, and paid."""

    id: int
    lines: list[Line]


class Paid(BaseModel):
    order_id: int


class Service:
    """`orders`, whose peer is `billing`: what it declares and registers in a test."""

    def __init__(self, **settings: Any) -> None:
        values = {"app_name": "orders", "destination_app": "billing", "env": "test"}
        self.config = BridgeConfig(**values | settings)
        self.declared = DeclaredEvents()
        self.consumers = Consumers()

    def publishes(self, *types: str, model: type[BaseModel] = Placed, **options: Any) -> Service:
        self.declared.publishes(*types, **options)(model)
        return self

    def handles(self, *types: str, model: Any = Paid, **options: Any) -> Service:
        async def handle(event: Event[model]) -> None: ...

        handle.__annotations__["event"] = Event[model]
        self.consumers.on(*types, **options)(handle)
        return self

    def upcasts(self, event_type: str, *versions: int, source: str | None = None) -> Service:
        for version in versions:
            self.consumers.upcast(event_type, from_version=version, source=source)(_same)
        return self

    @property
    def catalog(self) -> EventCatalog:
        return event_catalog(self.config, self.declared, self.consumers)

    @property
    def contract(self) -> Contract:
        return contract_of(self.catalog)


def _same(payload: dict[str, Any]) -> dict[str, Any]:
    return payload
