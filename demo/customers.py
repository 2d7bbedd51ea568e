"""The customers of a service as its clients see them, and whether two services see the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

from demo.pair import Pair, Service

_TIMEOUT = 20.0  # seconds for one answer
_PAGE = 500  # customers


@dataclass(frozen=True)
class Customer:
    """What both sides must agree on."""

    id: str
    name: str
    email: str
    version: int
    origin: str

    @classmethod
    def read(cls, row: dict[str, Any]) -> Self:
        return cls(row["id"], row["name"], row["email"], row["version"], row["origin"])


class Side:
    """One service over HTTP. Every answer that is not 2xx raises `httpx.HTTPStatusError`."""

    def __init__(self, service: Service, client: httpx.Client) -> None:
        self.service = service
        self._client = client

    @property
    def name(self) -> str:
        return self.service.name

    def create(self, name: str) -> Customer:
        email = f"{'.'.join(name.lower().split())}@example.com"
        return Customer.read(self.request("POST", "/customers", {"name": name, "email": email}))

    def rename(self, customer: Customer, name: str) -> Customer:
        return Customer.read(self.request("PATCH", f"/customers/{customer.id}", {"name": name}))

    def delete(self, customer: Customer) -> None:
        self.request("DELETE", f"/customers/{customer.id}")

    def find(self, customer_id: str) -> Customer | None:
        response = self._client.get(f"/customers/{customer_id}")
        if response.status_code == 404:
            return None
        return Customer.read(response.raise_for_status().json())

    def customers(self, *, after: str | None = None) -> dict[str, Customer]:
        """All customers by their ids, or those whose ids come after `after`."""
        found: dict[str, Customer] = {}
        while True:
            query = {"limit": str(_PAGE)} | ({"after": after} if after else {})
            page = self._client.get("/customers", params=query).raise_for_status().json()
            found |= {row["id"]: Customer.read(row) for row in page["items"]}
            after = page["next"]
            if after is None:
                return found

    def make_mark(self, number: int) -> str:
        """Publish an event that the other side counts; return its id."""
        event_id: str = self.request("POST", "/marks", {"number": number})["event_id"]
        return event_id

    def marks(self) -> tuple[int, int]:
        """How many effects marks of the other side had here, and how many events had one."""
        count = self.request("GET", "/marks")
        return count["effects"], count["events"]

    def request(self, method: str, path: str, body: dict[str, object] | None = None) -> Any:
        response = self._client.request(method, path, json=body).raise_for_status()
        return response.json() if response.content else None


@contextmanager
def both_sides(pair: Pair) -> Iterator[tuple[Side, Side]]:
    """Clients of the pair's two services."""
    orders, billing = pair.services
    with (
        httpx.Client(base_url=orders.url, timeout=_TIMEOUT) as left,
        httpx.Client(base_url=billing.url, timeout=_TIMEOUT) as right,
    ):
        yield Side(orders, left), Side(billing, right)


def differences(left: Side, right: Side) -> list[str]:
    """Two lines for each customer that the services do not show alike; none: they agree."""
    ours, theirs = left.customers(), right.customers()
    lines = []
    for customer_id in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(customer_id), theirs.get(customer_id)
        if here != there:
            lines.append(f"{left.name:<8}{customer_id}  {_shown(here)}")
            lines.append(f"{right.name:<8}{customer_id}  {_shown(there)}")
    return lines


def _shown(customer: Customer | None) -> str:
    if customer is None:
        return "absent"
    return f"{customer.name!r} {customer.email} v{customer.version} of {customer.origin}"
