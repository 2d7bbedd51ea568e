"""The probes: `/healthz` asks for a restart, `/readyz` asks to be left out for a while.

`/health/jetstream` is for people and dashboards. It is no probe: its answer may be 30 s old.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from jetstream_bridge.operations.readiness import Check, Status, status_of
from jetstream_bridge.service.health import Health
from jetstream_bridge.service.jetstream_health import (
    KEPT,
    JetStreamHealth,
    JetStreamReport,
    TooSoon,
)
from jetstream_bridge.service.problems import problem, problem_responses

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"]


class Failing(BaseModel):
    status: Literal["failing"]
    failures: list[str]


class CheckView(BaseModel):
    ok: bool
    detail: str | None = None


class Readiness(BaseModel):
    status: Status
    checks: dict[str, CheckView]


class ConnectionView(BaseModel):
    state: str
    connected: bool
    connected_at: datetime | None
    error: str | None


class StreamView(BaseModel):
    exists: bool
    name: str
    subjects: list[str]
    messages: int
    error: str | None


class PerformanceView(BaseModel):
    nats_rtt_ms: float | None
    health_check_duration_ms: float


class JetStreamView(BaseModel):
    healthy: bool
    connection: ConnectionView
    stream: StreamView
    performance: PerformanceView
    config: dict[str, str | bool]
    version: str
    checks: dict[str, CheckView]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Alive, responses={503: {"model": Failing}})
async def healthz(request: Request) -> Response:
    """Whether the process does its work. No I/O: a slow database is no reason for a restart."""
    health: Health = request.app.state.health
    failures = health.failures()
    if failures:
        return JSONResponse({"status": "failing", "failures": failures}, status_code=503)
    return JSONResponse({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Response:
    """Whether the process can serve now, and if not, why; `degraded` is served all the same."""
    health: Health = request.app.state.health
    checks = await health.checks()
    status = status_of(checks.values())
    return JSONResponse(
        {
            "status": status,
            "checks": {
                name: {"ok": check.ok} | ({"detail": check.detail} if check.detail else {})
                for name, check in checks.items()
            },
        },
        status_code=503 if status == "not_ready" else 200,
    )


@router.get(
    "/health/jetstream",
    response_model=JetStreamView,
    responses={503: {"model": JetStreamView}, **problem_responses(429)},
)
async def jetstream(request: Request, skip_cache: bool = False) -> Response:
    """How this process sees JetStream, and the service's own checks.

    Kept for 30 s; `skip_cache` asks anew, once in 5 s.
    """
    health: JetStreamHealth = request.app.state.jetstream
    try:
        report = await health.report(anew=skip_cache)
    except TooSoon as error:
        return problem(429, str(error), headers={"Retry-After": str(error.retry_after)})
    own: Health = request.app.state.health
    checks = await own.own_checks(max_age=0.0 if skip_cache else KEPT)
    view = _view(report, health, checks)
    status = 200 if report.healthy else 503
    return JSONResponse(view.model_dump(mode="json"), status_code=status)


def _view(
    report: JetStreamReport, health: JetStreamHealth, checks: Mapping[str, Check]
) -> JetStreamView:
    return JetStreamView(
        healthy=report.healthy,
        connection=ConnectionView(
            state=report.state,
            connected=report.connected,
            connected_at=report.connected_at,
            error=report.connection_error,
        ),
        stream=StreamView(
            exists=report.stream.exists,
            name=report.stream.name,
            subjects=report.stream.subjects,
            messages=report.stream.messages,
            error=report.stream_error,
        ),
        performance=PerformanceView(
            nats_rtt_ms=report.rtt_ms, health_check_duration_ms=report.duration_ms
        ),
        config=health.config,
        version=health.version,
        checks={
            name: CheckView(ok=check.ok, detail=check.detail) for name, check in checks.items()
        },
    )
