"""`/health/jetstream`: the shape, the cache, and no secret."""

from __future__ import annotations

import json

import httpx
from pydantic import SecretStr

from app.settings import Settings
from jetstream_bridge.testing import MockServer, VirtualClock
from tests.apps import make_app
from tests.service.conftest import serving
from tests.web.conftest import DEAD, INCOMING, OUTGOING, STREAM

PATH = "/health/jetstream"


async def test_a_healthy_connection_is_described(admin: httpx.AsyncClient) -> None:
    answer = await admin.get(PATH)

    report = answer.json()
    assert answer.status_code == 200
    assert report["healthy"] is True
    assert report["connection"]["state"] == "connected"
    assert report["connection"]["connected"] is True
    assert report["connection"]["connected_at"].endswith("Z")
    assert report["stream"] == {
        "exists": True,
        "name": STREAM,
        "subjects": [OUTGOING, INCOMING, DEAD],
        "messages": 0,
        "error": None,
    }
    assert report["performance"]["nats_rtt_ms"] >= 0
    assert report["performance"]["health_check_duration_ms"] >= 0
    assert report["config"]["app_name"] == "orders"
    assert report["config"]["use_dlq"] is True
    assert report["version"]


async def test_the_answer_is_kept_for_thirty_seconds(
    admin: httpx.AsyncClient, mock_nats: MockServer, clock: VirtualClock
) -> None:
    await admin.get(PATH)
    mock_nats.put(OUTGOING, b"{}")
    await clock.advance("29s")
    assert (await admin.get(PATH)).json()["stream"]["messages"] == 0
    await clock.advance("2s")
    assert (await admin.get(PATH)).json()["stream"]["messages"] == 1


async def test_asking_anew_is_possible_once_in_five_seconds(
    admin: httpx.AsyncClient, mock_nats: MockServer, clock: VirtualClock
) -> None:
    await admin.get(PATH)
    mock_nats.put(OUTGOING, b"{}")
    anew = await admin.get(PATH, params={"skip_cache": "true"})
    mock_nats.put(OUTGOING, b"{}")
    await clock.advance("2s")
    refused = await admin.get(PATH, params={"skip_cache": "true"})

    assert anew.json()["stream"]["messages"] == 1
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    kept = await admin.get(PATH)
    assert (kept.status_code, kept.json()["stream"]["messages"]) == (200, 1)
    await clock.advance("4s")
    assert (await admin.get(PATH, params={"skip_cache": "true"})).status_code == 200


async def test_without_nats_or_stream_it_is_not_healthy(
    admin: httpx.AsyncClient, mock_nats: MockServer, clock: VirtualClock
) -> None:
    mock_nats.drop_stream(STREAM)
    no_stream = await admin.get(PATH)
    mock_nats.stop()
    await clock.advance("31s")
    no_nats = await admin.get(PATH)

    assert no_stream.status_code == no_nats.status_code == 503
    assert no_stream.json()["stream"]["error"] == f"stream {STREAM} does not exist"
    assert no_nats.json()["connection"]["connected"] is False
    assert no_nats.json()["stream"]["error"] == "not connected to NATS"
    assert no_nats.json()["performance"]["nats_rtt_ms"] is None


async def test_a_silent_server_does_not_keep_the_answer(
    admin: httpx.AsyncClient, mock_nats: MockServer
) -> None:
    mock_nats.faults.ignore_api(times=1000)
    began = mock_nats.now()
    answer = await admin.get(PATH)

    assert mock_nats.now() - began < 3
    assert answer.status_code == 503
    assert answer.json()["stream"]["error"]


async def test_it_tells_no_secret(
    service_settings: Settings, mock_nats: MockServer, clock: VirtualClock
) -> None:
    secrets = {"nats_token": "hunter2-token", "admin_token": "hunter2-admin"}
    settings = service_settings.model_copy(
        update={name: SecretStr(value) for name, value in secrets.items()}
    )
    async with serving(make_app(settings, make_client=mock_nats.client)) as client:
        text = json.dumps((await client.get(PATH)).json())

    assert "hunter2" not in text
    assert "sqlite" not in text
