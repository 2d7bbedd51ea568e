"""`contract`: whether the events of the code still fit what was released, and releasing them.

Nobody is asked: the code and a file in the repository tell. A pipeline runs `contract check`.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Annotated

import typer

from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import group
from jetstream_bridge.cli.output import AsJson, Status, Yes, answer, confirm, fail, number_of
from jetstream_bridge.contracts.catalog import EventCatalog, event_catalog
from jetstream_bridge.contracts.changes import Break, Changes, changes
from jetstream_bridge.contracts.compatibility import Direction
from jetstream_bridge.contracts.released import (
    CONTRACT_FILE,
    Contract,
    contract_of,
    read_contract,
)
from jetstream_bridge.core.errors import (
    ConfigurationError,
    InvalidSubjectError,
    RegistrationError,
)
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import load_settings

_COLUMNS = 100
_VERBS = {Direction.PUBLISHED: "published", Direction.HANDLED: "handled"}

commands = group(
    "Compare the service's events with those that were released last.",
    example="python -m app.cli contract check",
)

File = Annotated[
    Path | None,
    typer.Option(
        "--file", help=f"The released contract, {CONTRACT_FILE} unless given.", show_default=False
    ),
]


@commands.command(epilog="Example: python -m app.cli contract check")
def check(file: File = None, as_json: AsJson = False) -> None:
    """Fail with status 3 when a change breaks readers of an event, or peers who send one."""
    path, current = _file(file), _current()
    released = _released(path)
    if released is None:
        fail(
            f"{_shown(path)} does not exist: nothing was released yet; write it with: "
            "python -m app.cli contract release",
            Status.BAD_INPUT,
        )
    found = _changes(released, current)
    answer(_report(found, current), _data(found), as_json=as_json)
    if found.breaks:
        raise typer.Exit(Status.DIFFERENCE)


@commands.command(epilog="Example: python -m app.cli contract release")
def release(file: File = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Write the events of today as the released ones; ask first where that breaks somebody."""
    path, current = _file(file), _current()
    released = _released(path)
    found = _changes(released, current) if released is not None else Changes()
    if found.breaks:
        typer.echo(_report(found, current), err=True)
        confirm(f"Release {number_of(len(found.breaks), 'breaking change')}?", yes=yes)
    try:
        current.write(path)
    except OSError as error:
        fail(f"{_shown(path)} could not be written: {error.strerror}", Status.FAILED)
    counted = _counted(current)
    data = _data(found) | {"file": str(path)}
    answer(f"{_shown(path)} has {counted}; commit it", data, as_json=as_json)


def catalog(settings: BridgeSettings) -> EventCatalog:
    """Return the events of this service; raises `RegistrationError` where some are wrong."""
    service = definition()
    try:
        return event_catalog(
            bridge_config(settings), service.load_extensions().events, service.load_consumers()
        )
    except InvalidSubjectError as error:
        raise RegistrationError(str(error)) from error


def _current() -> Contract:
    settings = load_settings(definition().settings_class)
    try:
        return contract_of(catalog(settings))
    except RegistrationError as error:
        fail(str(error), Status.BAD_INPUT)


def _file(given: Path | None) -> Path:
    return given if given is not None else definition().settings_class.root / CONTRACT_FILE


def _released(path: Path) -> Contract | None:
    try:
        return read_contract(path)
    except ConfigurationError as error:
        fail(str(error), Status.BAD_INPUT)


def _changes(released: Contract, current: Contract) -> Changes:
    try:
        return changes(released, current)
    except ConfigurationError as error:
        fail(str(error), Status.BAD_INPUT)


def _shown(path: Path) -> str:
    """From the service's folder, where it is in there."""
    root = definition().settings_class.root
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _counted(contract: Contract) -> str:
    published = number_of(len(contract.published), "published event")
    return f"{published} and {number_of(len(contract.handled), 'handled event')}"


def _report(found: Changes, current: Contract) -> str:
    lines = [line for one in found.breaks for line in _lines(one)]
    lines += [
        line
        for note in found.notes
        for line in wrap(f"note: {note}", _COLUMNS, subsequent_indent="      ")
    ]
    if found.breaks:
        return "\n".join([*lines, number_of(len(found.breaks), "breaking change")])
    return "\n".join([*lines, f"fine: {_counted(current)}, none breaks what was released"])


def _lines(one: Break) -> list[str]:
    place = f"{one.field}: " if one.field else ""
    text = f"BREAKS  {_VERBS[one.direction]} {one.event}: {place}{one.change}"
    remedy = [" " * 8 + line for line in (one.remedy, one.code) if line]
    return [*wrap(text, _COLUMNS, subsequent_indent=" " * 8), *remedy]


def _data(found: Changes) -> dict[str, object]:
    return {"breaking": [one.as_dict() for one in found.breaks], "notes": found.notes}
