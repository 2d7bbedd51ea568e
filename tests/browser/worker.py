"""The service's worker with one more handler: `python -m tests.browser.worker`.

The handler refuses parcels to depots that are not in the file that DEPOTS names, so that a test
can have an event fail, mend the cause, and have it handled.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel

from app.consumers import load_consumers
from app.consumers.registry import consumers
from app.settings import Settings
from jetstream_bridge import Event, Unrecoverable
from jetstream_bridge.web.worker_process import run_worker

_DEPOTS = Path(os.environ["DEPOTS"])


class Parcel(BaseModel):
    depot: str


@consumers.on("parcel.sent")
async def receive(event: Event[Parcel]) -> None:
    if event.payload.depot not in _known():
        raise Unrecoverable(
            f"there is no depot {event.payload.depot!r}; known are those of the file depots.txt, "
            "which <b>nobody</b> has brought up to date since the depot was opened"
        )


def _known() -> list[str]:
    return _DEPOTS.read_text().split()


if __name__ == "__main__":
    run_worker(Settings, load_consumers)
