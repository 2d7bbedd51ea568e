"""A service with a resource, as `python -m tests.service.extended` (a worker), or for uvicorn.

RESOURCE says how it behaves: `fine`, `broken` when it is opened, or `hanging`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app.settings import Settings
from jetstream_bridge import Check, Consumers, Event
from jetstream_bridge.service import Extensions, prepare_process
from jetstream_bridge.web import install, run_worker, serving

extensions = Extensions(Settings)


class Client:
    pass


def say(what: str) -> None:
    print(what, flush=True)


@extensions.resource
async def client() -> AsyncIterator[Client]:
    if os.environ["RESOURCE"] == "broken":
        raise OSError("billing refuses")
    say("resource opens")
    if os.environ["RESOURCE"] == "hanging":
        await asyncio.Event().wait()
    yield Client()
    say("resource closed")


@extensions.check(needed=False)
async def billing(client: Client) -> Check:
    return Check(ok=False, detail="billing is slow")


consumers = Consumers(resources=extensions.types)


@consumers.on("*")
async def handle(event: Event[dict[str, Any]], client: Client) -> None:
    say("handler began")
    await asyncio.sleep(1)
    say("handler ended")


def load_consumers() -> Consumers:
    return consumers


def make_app() -> FastAPI:
    """For `uvicorn --factory`."""
    settings = prepare_process(Settings, load_consumers, extensions)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving(
            app, settings, relay=True, handlers=load_consumers(), extensions=extensions
        ):
            yield

    app = FastAPI(lifespan=lifespan)
    install(app, settings)
    return app


if __name__ == "__main__":
    run_worker(Settings, load_consumers, extensions)
