"""`asyncapi`: the service's events as an AsyncAPI document. Nobody is asked."""

from __future__ import annotations

import json

from jetstream_bridge.cli.contract import catalog
from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer, fail
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.service.event_documents import EventDocuments
from jetstream_bridge.service.settings_loading import load_settings

commands = single()


@commands.command(epilog="Example: python -m app.cli asyncapi > asyncapi.json")
def command(as_json: AsJson = False) -> None:
    """Print the events that this service publishes and handles, as AsyncAPI 3 in JSON."""
    settings = load_settings(definition().settings_class)
    try:
        document = EventDocuments(settings, lambda: catalog(settings)).whole
    except RegistrationError as error:
        fail(str(error), Status.BAD_INPUT)
    # A program's document with `--json` and without it, so that nobody has to know.
    answer(json.dumps(document, ensure_ascii=False, indent=2), document, as_json=as_json)
