"""The operator's API under /admin. `AdminGate` lets nobody in without the token."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from jetstream_bridge.service.problems import problem_responses
from jetstream_bridge.web.admin import dlq, inbox, outbox, topology
from jetstream_bridge.web.admin_gate import require_passed

# Only says in OpenAPI what the gate demands: by the time a route is reached, it has been checked,
# and `require_passed` makes sure of that.
_SCHEME = HTTPBearer(
    scheme_name="adminToken", description="The value of ADMIN_TOKEN.", auto_error=False
)

router = APIRouter(
    prefix="/admin",
    dependencies=[Depends(_SCHEME), Depends(require_passed)],
    responses=problem_responses(401, 403, 503),
)
for part in (outbox, inbox, dlq, topology):
    router.include_router(part.router)
