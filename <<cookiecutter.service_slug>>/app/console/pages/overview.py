"""The first page, what its script asks for, and the switch that stops relaying."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from app.console.forms import FormDep
from app.console.headers import secured
from app.console.notices import done
from app.console.overview import Overview, overview
from app.console.pages.access import ConsoleRoute, OperationsDep
from app.console.places import HOME, UNDER
from app.console.rendering import Links, page
from app.console.texts import number

router = APIRouter(route_class=ConsoleRoute)


async def _look(request: Request) -> Overview:
    state = request.app.state
    return await overview(state.readings, state.health, state.bridge, state.settings)


@router.get(HOME)
@router.get(f"{HOME}/")
async def show(request: Request) -> Response:
    facts = request.app.state.jetstream.config
    return page(request, "overview.html", view=await _look(request), facts=facts)


@router.get(f"{UNDER}/live")
async def live(request: Request) -> Response:
    """What changes on the first page, in the words that it uses."""
    view = await _look(request)
    answer: dict[str, Any] = {
        "time": view.reading.time.isoformat(timespec="milliseconds"),
        "parts": [asdict(part) for part in view.parts],
        "figures": [asdict(figure) for figure in view.figures],
    }
    return secured(JSONResponse(answer))


@router.get(f"{UNDER}/relay/pause")
async def ask_to_pause(request: Request) -> Response:
    links = Links(request)
    return page(
        request,
        "confirm.html",
        current="overview",
        title="Pause relaying",
        text="Every replica stops sending. Events are still written to the outbox, and wait there "
        "until somebody resumes.",
        facts={},
        action=links.to("relay/pause"),
        fields=[],
        button="Pause relaying",
        destructive=False,
        back=links.home,
    )


@router.post(f"{UNDER}/relay/pause")
async def pause(request: Request, _form: FormDep, operations: OperationsDep) -> Response:
    await operations.pause()
    return done(request, HOME, "Relaying is paused on every replica.", tone="warn")


@router.post(f"{UNDER}/relay/resume")
async def resume(request: Request, _form: FormDep, operations: OperationsDep) -> Response:
    await operations.resume()
    return done(request, HOME, "Relaying goes on, on every replica.")


@router.post(f"{UNDER}/relay/retry-failed")
async def retry_failed(request: Request, _form: FormDep, operations: OperationsDep) -> Response:
    retried = await operations.retry_failed()
    events = "event" if retried == 1 else "events"
    return done(request, HOME, f"{number(retried)} failed {events} will be sent again.")
