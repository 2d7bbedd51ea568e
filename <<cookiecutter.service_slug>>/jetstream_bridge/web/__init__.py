"""HTTP: probes, administration, the console and the processes; below is what a team imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetstream_bridge.core.public_names import on_demand

if TYPE_CHECKING:
    from jetstream_bridge.service.problems import problem_responses
    from jetstream_bridge.web.admin import admin_router
    from jetstream_bridge.web.api_process import TELEMETRY, install, serving
    from jetstream_bridge.web.console.mounting import ConsoleLink, add_console
    from jetstream_bridge.web.console.own_pages import console_page, console_router
    from jetstream_bridge.web.dependencies import PublisherDep, SessionDep, from_resource
    from jetstream_bridge.web.routers import asyncapi_document, operators_api, probes
    from jetstream_bridge.web.strict import StrictRoute, WholeNumber
    from jetstream_bridge.web.worker_process import run_worker

__all__ = [
    "TELEMETRY",
    "ConsoleLink",
    "PublisherDep",
    "SessionDep",
    "StrictRoute",
    "WholeNumber",
    "add_console",
    "admin_router",
    "asyncapi_document",
    "console_page",
    "console_router",
    "from_resource",
    "install",
    "operators_api",
    "probes",
    "problem_responses",
    "run_worker",
    "serving",
]

__getattr__ = on_demand(
    __name__,
    {
        "jetstream_bridge.web.admin": ("admin_router",),
        "jetstream_bridge.web.api_process": (
            "TELEMETRY",
            "install",
            "serving",
        ),
        "jetstream_bridge.web.console.mounting": (
            "ConsoleLink",
            "add_console",
        ),
        "jetstream_bridge.web.console.own_pages": (
            "console_page",
            "console_router",
        ),
        "jetstream_bridge.web.dependencies": (
            "PublisherDep",
            "SessionDep",
            "from_resource",
        ),
        "jetstream_bridge.service.problems": ("problem_responses",),
        "jetstream_bridge.web.routers": ("asyncapi_document", "operators_api", "probes"),
        "jetstream_bridge.web.strict": (
            "StrictRoute",
            "WholeNumber",
        ),
        "jetstream_bridge.web.worker_process": ("run_worker",),
    },
)
