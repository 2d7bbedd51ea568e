"""What Prometheus collects from this process.

A scrape brings queues and readiness up to date, which costs at most one reading in five seconds.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from jetstream_bridge.operations.queue_metrics import QueueMetrics
from jetstream_bridge.service.ready_metrics import ReadyMetrics

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    queues: QueueMetrics = request.app.state.queues
    readiness: ReadyMetrics = request.app.state.readiness
    await asyncio.gather(queues.refresh(), readiness.refresh())
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
