"""`servers`: the nats-server and the PostgreSQL that `make run` starts on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import group
from jetstream_bridge.cli.output import AsJson, Status, Yes, answer, complain, confirm, fail
from jetstream_bridge.service.local_server import LocalServer, NotStartedError
from jetstream_bridge.service.local_servers import LocalServers
from jetstream_bridge.service.settings_loading import load_settings

commands = group(
    "The servers on this machine that `make run` starts, for all services of this user.",
    example="python -m app.cli servers status",
)

_Found = TypeVar("_Found")


@commands.command(epilog="Example: python -m app.cli servers status")
def status(as_json: AsJson = False) -> None:
    """Say what runs, where it answers, and where its data are."""
    settings = load_settings(definition().settings_class)
    found = _run(_servers().report())
    lines = [_line(one) for one in found] or [
        f"none; `make run` starts them, with their data in {settings.local_servers}"
    ]
    answer("\n".join(lines), {"servers": [_data(one) for one in found]}, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli servers stop")
def stop(
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete their databases and streams too.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Stop them, for every service that uses them. Their data stay, unless told otherwise."""
    servers = _servers()
    if delete_data:
        found = _run(servers.report())
        places = ", ".join(str(one.data) for one in found)
        if found:
            confirm(f"Delete the databases and streams of all services in {places}?", yes=yes)
    stopped = _run(servers.stop())
    if delete_data:
        _run(servers.delete())
    kept = "their data are deleted" if delete_data else "their data stay"
    lines = [f"stopped {one.name} at {one.address}" for one in stopped] or ["none runs"]
    data = {"stopped": [_data(one) for one in stopped], "data_deleted": delete_data}
    answer("\n".join([*lines, kept]), data, as_json=as_json)


def _servers() -> LocalServers:
    settings = load_settings(definition().settings_class)
    return LocalServers(settings.local_servers, complain)


def _run(work: Coroutine[Any, Any, _Found]) -> _Found:
    try:
        return asyncio.run(work)
    except NotStartedError as error:
        fail(str(error), Status.FAILED)


def _line(server: LocalServer) -> str:
    runs = f"runs at {server.address}, process {server.pid}" if server.runs else "does not run"
    return f"{server.name:<12} {runs}\n{'':<12} data in {server.data}, log {server.log}"


def _data(server: LocalServer) -> dict[str, object]:
    return {
        "name": server.name,
        "address": server.address,
        "pid": server.pid,
        "data": str(server.data),
        "log": str(server.log),
    }
