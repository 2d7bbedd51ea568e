"""`permissions`: the least NATS rights that this service needs, to paste into its user.

Nothing is asked of NATS or of the database: the settings and the registered handlers tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer, fail
from jetstream_bridge.core.errors import InvalidSubjectError, RegistrationError
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.settings_loading import load_settings
from jetstream_bridge.topology.permissions import permissions

commands = single()

Restricted = Annotated[
    bool | None,
    typer.Option(
        "--restricted/--provisioning",
        help="For a service that binds only, or for one that makes its stream and consumers. "
        "Without either: as AUTO_PROVISION says.",
        show_default=False,
    ),
]
Admin = Annotated[
    bool, typer.Option("--admin", help="Also what operators need: letters, topology.")
]
Destinations = Annotated[
    list[str] | None,
    typer.Option(
        "--destination",
        metavar="SERVICE",
        help="A service beside DESTINATION_APP to which this one sends; may be given again.",
    ),
]


@commands.command(epilog="Example: python -m app.cli permissions --restricted > orders.conf")
def command(
    restricted: Restricted = None,
    admin: Admin = False,
    destination: Destinations = None,
    as_json: AsJson = False,
) -> None:
    """Print the NATS rights that this service needs."""
    service = definition()
    config = bridge_config(load_settings(service.settings_class))
    if restricted is not None:
        config = replace(config, auto_provision=not restricted)
    try:
        needed = permissions(
            config,
            service.load_consumers().durables(config),
            destinations=destination or (),
            admin=admin,
        )
    except (InvalidSubjectError, RegistrationError) as error:
        fail(str(error), Status.BAD_INPUT)
    answer(needed.as_config().rstrip("\n"), needed.as_dict(), as_json=as_json)
