"""The first page, what its script asks for, and the switch that stops relaying."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from jetstream_bridge.web.console.attention import badges, matters
from jetstream_bridge.web.console.flash_messages import done
from jetstream_bridge.web.console.formatting import number
from jetstream_bridge.web.console.forms import FormDep
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.pages.access import ConsoleRoute, OperationsDep, look
from jetstream_bridge.web.console.rendering import Links, page
from jetstream_bridge.web.console.urls import HOME, UNDER

router = APIRouter(route_class=ConsoleRoute)


@router.get(HOME)
@router.get(f"{HOME}/")
async def show(request: Request) -> Response:
    view = await look(request)
    facts = request.app.state.jetstream.config
    return page(request, "overview.html", view=view, matters=matters(view), facts=facts)


@router.get(f"{UNDER}/live")
async def live(request: Request) -> Response:
    """What changes on the first page, in the words that it uses."""
    view = await look(request)
    links = Links(request)
    answer: dict[str, Any] = {
        "time": view.reading.time.isoformat(timespec="milliseconds"),
        "parts": [asdict(part) for part in view.parts],
        "figures": [asdict(figure) for figure in view.figures],
        "badges": {name: asdict(badge) for name, badge in badges(view).items()},
        "matters": [
            asdict(matter) | {"address": links.to(matter.place, **matter.query)}
            for matter in matters(view)
        ],
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
