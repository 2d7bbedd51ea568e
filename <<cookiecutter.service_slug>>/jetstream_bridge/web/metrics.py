"""What Prometheus collects from this process.

A scrape brings queues and readiness up to date, which costs at most one reading in five seconds.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    await request.app.state.refresh_gauges()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
