"""`new consumer` and `new event`: code to begin with, registered and tested."""

from __future__ import annotations

from typing import Annotated

import typer

from jetstream_bridge.cli import scaffold
from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import group
from jetstream_bridge.cli.output import AsJson, Status, answer, fail

commands = group(
    "Write the first version of a handler or of an event, with its test.",
    example="python -m app.cli new consumer invoice.paid",
)

EventType = Annotated[
    str, typer.Argument(metavar="TYPE", help="The event's type, like invoice.paid.")
]


@commands.command(epilog="Example: python -m app.cli new consumer invoice.paid")
def consumer(event_type: EventType, as_json: AsJson = False) -> None:
    """Write a handler for TYPE, with a payload model and its test."""
    _write(scaffold.consumer, event_type, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli new event order.placed")
def event(event_type: EventType, as_json: AsJson = False) -> None:
    """Write the payload model of TYPE and a function that announces it, with its test."""
    _write(scaffold.event, event_type, as_json=as_json)


def _write(plan: scaffold.Planner, event_type: str, *, as_json: bool) -> None:
    service = definition()
    root = service.settings_class.root
    try:
        planned = plan(event_type, root, service.load_consumers)
    except scaffold.RefusedError as refused:
        fail(str(refused), Status.BAD_INPUT)
    except scaffold.BrokenServiceError as broken:
        fail(str(broken), Status.FAILED)
    try:
        planned.write(root)
    except OSError as error:
        fail(f"nothing was written: {error}", Status.FAILED)
    answer(planned.summary(), planned.as_data(), as_json=as_json)
