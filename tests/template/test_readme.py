"""What the README promises: its commands exist, its links lead somewhere, its code runs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.template.baking import ROOT
from tests.template.test_service_readme import run

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

MODELS = """

class Order(SQLModel, table=True):
    id: str = Field(default_factory=new_id, primary_key=True)
    total: int
    paid_at: datetime | None = None
"""
ROUTE = """
from fastapi import APIRouter
from pydantic import BaseModel

from jetstream_bridge.service.database import SessionDep
from app.events import EventsDep
from app.models import Order

router = APIRouter(prefix="/orders")


class NewOrder(BaseModel):
    total: int


"""
CONSUMER = """
from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Event
from app.consumers.registry import consumers
from app.models import Order


class InvoicePaid(BaseModel):
    order_id: str


"""
HANDLE_BOTH_WAYS = """
import asyncio, json
from datetime import UTC, datetime
import httpx
from app.consumers import load_consumers
from app.consumers.orders import InvoicePaid, mark_as_paid
from jetstream_bridge import Event, Metadata
from jetstream_bridge.core.tables import BridgeTable
from jetstream_bridge.service.database import open_database
from app.main import app
from app.models import Order
from app.settings import Settings
from jetstream_bridge.service.settings_loading import load_settings
from sqlmodel import SQLModel

async def main():
    database = open_database(load_settings(Settings))
    async with database.engine.begin() as connection:
        for metadata in (SQLModel.metadata, BridgeTable.metadata):
            await connection.run_sync(metadata.create_all)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            placed = (await client.post("/orders", json={"total": 7})).json()
    sources = load_consumers().sources
    event = Event(
        event_id="e", type="invoice.paid", event_type="invoice.paid", resource_type="invoice",
        resource_id="1", producer="billing", trace_id="t", schema_version=1,
        occurred_at=datetime.now(UTC),
        payload=InvoicePaid(order_id=placed["id"]), raw={},
        metadata=Metadata(subject="s", stream="s", sequence=1, consumer="c", deliveries=1,
                          timestamp=datetime.now(UTC)),
    )
    async with database.sessions() as session:
        await mark_as_paid(event, session)
        await session.commit()
    async with database.sessions() as session:
        paid = (await session.get_one(Order, placed["id"])).paid_at is not None
    await database.close()
    print(json.dumps({"total": placed["total"], "sources": sources, "paid": paid}))

asyncio.run(main())
"""


def test_the_code_runs_in_a_service(small_service: Path, tmp_path: Path) -> None:
    service = tmp_path / "service"
    shutil.copytree(small_service, service)
    route, consumer = BLOCKS
    models = service / "app/models.py"
    imports = "from datetime import datetime\n\nfrom sqlmodel import Field, SQLModel\n"
    own_id = "from uuid_utils import uuid7\n\n\ndef new_id() -> str:\n    return str(uuid7())\n"
    models.write_text(f"{models.read_text()}\n{imports}{own_id}{MODELS}")
    (service / "app/routers/orders.py").write_text(ROUTE + route)
    (service / "app/consumers/orders.py").write_text(CONSUMER + consumer)
    printed = run(service, "-c", HANDLE_BOTH_WAYS).splitlines()[-1]
    assert printed == '{"total": 7, "sources": ["billing"], "paid": true}'


def test_the_commands_exist() -> None:
    ours = (ROOT / "Makefile").read_text(encoding="utf-8")
    theirs = (ROOT / "<<cookiecutter.service_slug>>" / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(?:    |.*`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "run", "bench", "lint", "setup"} <= targets
    for target in targets:
        assert f"\n{target}:" in ours + theirs, target


_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The names of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = (re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", found) for found in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(documents: Iterable[Path], root: Path) -> list[str]:
    """Links to files and headings that are not there, or not within `root`."""
    dead = []
    for document in documents:
        for link in _LINK.findall(document.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            target = document.parent / name if name else document
            if "://" in link:
                continue
            within = Path(os.path.normpath(target)).is_relative_to(root)
            if not within or not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{document.name}: {link}")
    return dead


@pytest.mark.parametrize("root", [ROOT, ROOT / "<<cookiecutter.service_slug>>"])
def test_links_lead_somewhere(root: Path) -> None:
    documents = [root / "README.md", *(root / "docs").rglob("*.md")]
    assert len(documents) > 10
    assert dead_links(documents, root) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](#one-heading) [b](#two) [c](gone.md) [d](../page.md)\n")
    assert dead_links([page], tmp_path) == [
        "page.md: #two",
        "page.md: gone.md",
        "page.md: ../page.md",
    ]
