"""docs/architecture.md follows one event through the code; this is that event."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import httpx

from app.models import Customer
from jetstream_bridge.service.database import Database
from tests.template.baking import ROOT, TEMPLATE

_ROW = re.compile(r"^\| \d+ \| `(\S+\.py)` \| `(\S+)` \|", re.MULTILINE)


class Followed:
    """Notes the calls of `steps`, each after the one before it."""

    def __init__(self, steps: list[tuple[str, str]]) -> None:
        self._steps = [(str(TEMPLATE / file), name) for file, name in steps]
        self.done = 0

    def __call__(self, frame: FrameType, what: str, _: object) -> None:
        if what == "call" and self.done < len(self._steps):
            code = frame.f_code
            self.done += (code.co_filename, code.co_qualname) == self._steps[self.done]


async def test_the_table_names_the_calls_of_one_event_in_their_order(
    client: httpx.AsyncClient, peer: Database, eventually: Callable[..., Any]
) -> None:
    steps = _ROW.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    files = [file for file, _ in steps]
    assert len(files) == len(set(files)) == 12
    calls = Followed(steps)
    before = sys.getprofile()
    sys.setprofile(calls)
    try:
        made = await client.post("/customers", json={"name": "Ada", "email": "ada@example.com"})

        async def is_replicated() -> bool:
            async with peer.readers() as session:
                return await session.get(Customer, made.json()["id"]) is not None

        await eventually(is_replicated)
        with contextlib.suppress(AssertionError):  # the message below names the step
            await eventually(lambda: calls.done == len(steps))
    finally:
        sys.setprofile(before)
    assert calls.done == len(steps), f"nobody calls {steps[calls.done]} after the step before it"
