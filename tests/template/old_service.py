"""A service of version 0.1.0 as its team left it: edits in the template's files, and own files."""

from __future__ import annotations

from pathlib import Path

SETTING = '    invoice_currency: str = "EUR"\n'

_INVOICE = """

class Invoice(SQLModel, table=True):
    id: str = Field(primary_key=True)
    amount: int
    currency: str
"""
_REFUND = '''"""Refunds, with their table."""

from __future__ import annotations

from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from app.bridge import Event, Unrecoverable
from app.bridge.errors import BridgeError
from app.consumers.registry import consumers


class Refund(SQLModel, table=True):
    id: str = Field(primary_key=True)


@consumers.on("invoice.refunded")
async def write_refund(event: Event[dict[str, str]], session: AsyncSession) -> None:
    assert issubclass(Unrecoverable, BridgeError)
    session.add(Refund(id=event.payload["id"]))
'''
_INVOICES = '''"""Invoices."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from app.database import SessionDep
from app.events import EventsDep
from app.models import Invoice
from app.problems import problem_responses
from app.settings import load_settings
from app.strict import StrictRoute

router = APIRouter(prefix="/invoices", tags=["invoices"], route_class=StrictRoute)


class NewInvoice(BaseModel):
    id: str
    amount: int


@router.post("", status_code=201, responses=problem_responses(503))
async def write_invoice(new: NewInvoice, session: SessionDep, events: EventsDep) -> Invoice:
    currency = load_settings().invoice_currency
    invoice = Invoice(id=new.id, amount=new.amount, currency=currency)
    session.add(invoice)
    await events.publish("invoice.written", invoice)
    return invoice
'''
_TEST = '''"""Invoices and refunds."""

from __future__ import annotations

import httpx

from app.bridge.testing import Deliver, Outcome, Published


async def test_an_invoice_is_announced(client: httpx.AsyncClient, published: Published) -> None:
    answer = await client.post("/invoices", json={"id": "i-1", "amount": 7})
    assert answer.json() == {"id": "i-1", "amount": 7, "currency": "EUR"}
    await published.assert_published("invoice.written", resource_id="i-1")


async def test_a_refund_takes_effect_once(deliver: Deliver) -> None:
    event = deliver.body("invoice.refunded", {"id": "r-1"})
    assert (await deliver(event)).outcome is Outcome.PROCESSED
    assert (await deliver(event)).outcome is Outcome.DUPLICATE
'''
_MIGRATION = '''"""Invoices and refunds

Revision: 0100
Builds on: {follows}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0100"
down_revision = "{follows}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "invoice",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_invoice"),
    )
    op.create_table(
        "refund",
        sa.Column("id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_refund"),
    )


def downgrade() -> None:
    op.drop_table("refund")
    op.drop_table("invoice")
'''
_GREETING = """

@router.get("/{customer_id}/greeting")
async def greet(customer_id: str) -> dict[str, str]:
    return {"greeting": f"Hello, {customer_id}"}
"""
_MERGED = """

@consumers.on("customer.merged")
async def forget_the_other(event: Event[dict[str, str]]) -> None:
    if "other" not in event.payload:
        raise Unrecoverable("an event without the customer that is merged")
"""
MIGRATION = "migrations/versions/0100_invoices.py"
OWN = {
    "app/routers/invoices.py": _INVOICES,
    "app/consumers/invoices.py": _REFUND,
    "tests/test_invoices.py": _TEST,
}


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def put(path: Path, before: str, text: str) -> None:
    """Write `text` above the line that begins with `before`."""
    there = path.read_text(encoding="utf-8")
    assert there.count(f"\n{before}") == 1, (path, before)
    path.write_text(there.replace(f"\n{before}", f"\n{text}{before}"), encoding="utf-8")


def work_on(service: Path, *, example: bool) -> None:
    """Do what the team did."""
    for name, text in OWN.items():
        (service / name).write_text(text, encoding="utf-8")
    follows = "0002" if example else "0001"
    (service / MIGRATION).write_text(_MIGRATION.format(follows=follows), encoding="utf-8")
    models = service / "app/models.py"
    if not example:
        add(models, "\nfrom sqlmodel import Field, SQLModel\n")
    add(models, _INVOICE)
    put(service / "app/settings.py", "    app_name: ", SETTING)
    if example:
        add(service / "app/routers/customers.py", _GREETING)
        add(service / "app/consumers/customers.py", _MERGED)
