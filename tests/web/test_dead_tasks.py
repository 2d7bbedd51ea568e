"""A background task that dies is shown wherever health is shown."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from jetstream_bridge.outbox.relay import Relay
from jetstream_bridge.outbox.rounds import Round
from jetstream_bridge.testing import VirtualClock
from tests.web.console import BASE, Person


async def test_a_relay_that_keeps_dying_shows_in_every_place_and_goes_on_when_it_can(
    app: FastAPI,
    admin: httpx.AsyncClient,
    person: Person,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def odd(*_: object) -> Round:
        raise ZeroDivisionError("odd")

    async def process() -> dict[str, str]:
        live = (await person.client.get(f"{BASE}/live")).json()
        parts: dict[str, dict[str, str]] = {part["key"]: part for part in live["parts"]}
        return parts["process"]

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "_guarded", odd)
        await clock.advance("15s")
        alive = await admin.get("/healthz")
        ready = (await admin.get("/readyz")).json()
        metrics = (await admin.get("/metrics")).text
        assert alive.status_code == 503
        assert "relay died" in alive.json()["failures"][0]
        assert ready["status"] == "not_ready"
        assert "ZeroDivisionError" in ready["checks"]["tasks"]["detail"]
        assert 'bridge_ready{check="tasks"} 0.0' in metrics
        assert (await process())["label"] == "A task died"

    await clock.advance("2m")
    assert (await admin.get("/healthz")).status_code == 200
    assert (await admin.get("/readyz")).json()["checks"]["relay"] == {"ok": True}
    assert (await process())["label"] == "Running"
