"""The probes: `/healthz` asks for a restart, `/readyz` asks to be left out for a while."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.health import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Whether the process does its work. No I/O: a slow database is no reason for a restart."""
    health: Health = request.app.state.health
    failures = health.failures()
    if failures:
        return JSONResponse({"status": "failing", "failures": failures}, status_code=503)
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Whether the process can serve now, and if not, why."""
    health: Health = request.app.state.health
    checks = await health.checks()
    ready = all(check.ok for check in checks.values())
    return JSONResponse(
        {
            "status": "ready" if ready else "not_ready",
            "checks": {
                name: {"ok": check.ok} | ({"detail": check.detail} if check.detail else {})
                for name, check in checks.items()
            },
        },
        status_code=200 if ready else 503,
    )
