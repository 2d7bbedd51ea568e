"""The events of a service as an AsyncAPI 3 document: the wire as it is, and no secret.

Channels are subjects, operations are declared events and registered handlers, messages have the
envelope around the payload. AsyncAPI's binding for NATS knows a queue only, which is the durable
here; what JetStream has beside it is in `x-jetstream`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jetstream_bridge.contracts.catalog import EventCatalog, HandledEvent, PublishedEvent
from jetstream_bridge.contracts.envelope_schemas import (
    DEAD_LETTER_HEADERS,
    headers,
    read_envelope,
    written_envelope,
)
from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.subjects import AppNames
from jetstream_bridge.nats.options import ServerAddress, parse_addresses

ASYNCAPI_VERSION = "3.0.0"
_BINDING_VERSION = "0.1.0"
_DEAD_LETTERS = "dead-letters"

Document = dict[str, Any]


def asyncapi(
    catalog: EventCatalog, *, title: str, version: str, description: str = "", servers: bool = True
) -> Document:
    """Return the document. Without `servers` it does not say where NATS is.

    Raises `RegistrationError` where a payload has no JSON Schema.
    """
    parts = _Parts(catalog)
    info = {"title": title, "version": version}
    if description:
        info["description"] = description
    document: Document = {
        "asyncapi": ASYNCAPI_VERSION,
        "info": info,
        "defaultContentType": "application/json",
    }
    security = _security(catalog.config.connection)
    if servers:
        document["servers"] = _servers(catalog.config.connection, secured=bool(security))
    document["channels"] = parts.channels
    document["operations"] = parts.operations
    components = {"messages": parts.messages, "schemas": parts.schemas}
    if servers and security:
        components["securitySchemes"] = {"nats": security}
    document["components"] = components
    return document


class _Parts:
    """The parts of one document, each beside those that it refers to."""

    def __init__(self, catalog: EventCatalog) -> None:
        self._config = catalog.config
        self.channels: Document = {}
        self.operations: Document = {}
        self.messages: Document = {}
        self.schemas: Document = {}
        for event in catalog.published:
            self._publish(event)
        for handled in catalog.handled:
            self._handle(handled)
        if self._config.use_dlq:
            self._dead_letters()

    def _publish(self, event: PublishedEvent) -> None:
        name = f"{_key(event.event_type)}.v{event.schema_version}"
        payload = self._payload(f"send.{name}", event)
        self.messages[f"send.{name}"] = {
            **_described(event.event_type, event.declared.model.__doc__),
            "headers": headers(gem_peer=self._config.gem_peer),
            "payload": written_envelope(
                event.event_type, event.schema_version, self._config.app_name, payload
            ),
            "correlationId": {"location": "$message.payload#/trace_id"},
        }
        for destination, subject in zip(event.destinations, event.subjects, strict=True):
            channel = f"to-{_key(destination)}"
            self._add_channel(channel, subject, f"Events for {destination}", f"send.{name}")
            self.operations[f"send.{name}.{channel}"] = {
                "action": "send",
                **_on(channel, f"send.{name}"),
                "summary": f"Publishes {event.event_type}, version {event.schema_version}",
            }

    def _handle(self, event: HandledEvent) -> None:
        source = _key(event.source)
        message = f"receive.{_key(event.pattern)}.{source}"
        channel = f"from-{source}"
        self.messages[message] = {
            **_described(event.pattern, event.handler.function.__doc__),
            "headers": headers(gem_peer=False, required=False),
            "payload": read_envelope(
                event.pattern, event.schema_version, self._payload(message, event)
            ),
            "correlationId": {"location": "$message.payload#/trace_id"},
        }
        self._add_channel(channel, event.durable.subject, f"Events of {event.source}", message)
        config = self._config
        self.operations[message] = {
            "action": "receive",
            **_on(channel, message),
            "summary": f"Handles {event.pattern} in {event.place}",
            "bindings": {"nats": {"queue": event.durable.name, "bindingVersion": _BINDING_VERSION}},
            "x-jetstream": {
                "stream": config.stream,
                "durable": event.durable.name,
                "ack_wait": event.durable.ack_wait,
                "max_deliver": event.handler.options.max_deliver or config.max_deliver,
            },
        }

    def _dead_letters(self) -> None:
        names: AppNames = self._config.names
        self.messages[_DEAD_LETTERS] = {
            "name": "dead letter",
            "title": "Dead letter",
            "description": "A message that could not be handled: its body, byte for byte, and its "
            "headers, with the reason beside them.",
            "headers": DEAD_LETTER_HEADERS,
        }
        title = "What could not be handled here"
        self._add_channel(_DEAD_LETTERS, names.dead_letter, title, _DEAD_LETTERS)
        self.operations[f"send.{_DEAD_LETTERS}"] = {
            "action": "send",
            **_on(_DEAD_LETTERS, _DEAD_LETTERS),
            "summary": "Keeps what could not be handled, with the reason",
        }

    def _payload(self, message: str, event: PublishedEvent | HandledEvent) -> Document:
        """Put the payload's schema and those that it names beside all others; refer to it."""
        schema = event.schema(references=f"#/components/schemas/{message}.{{model}}")
        for name, part in _mapping(schema.pop("$defs", {})).items():
            self.schemas[f"{message}.{name}"] = part
        self.schemas[message] = schema
        return {"$ref": f"#/components/schemas/{message}"}

    def _add_channel(self, channel: str, subject: str, title: str, message: str) -> None:
        found = self.channels.setdefault(
            channel,
            {
                "address": subject,
                "title": title,
                "messages": {},
                "x-jetstream": {"stream": self._config.stream},
            },
        )
        found["messages"][message] = {"$ref": f"#/components/messages/{message}"}


def _on(channel: str, message: str) -> Document:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _described(event_type: str, text: str | None) -> Document:
    described = {"name": event_type, "title": event_type}
    if text:
        described["description"] = " ".join(text.split())
    return described


def _key(name: str) -> str:
    """The name of a component: AsyncAPI allows letters, digits, `.`, `-` and `_`."""
    return re.sub(
        r"[^A-Za-z0-9._-]", lambda found: f"_{ord(found[0]):x}_", name.replace("*", "any")
    )


def _mapping(value: object) -> Mapping[str, Any]:
    assert isinstance(value, Mapping)
    return value


def _servers(connection: ConnectionOptions, *, secured: bool) -> Document:
    addresses: Sequence[ServerAddress] = parse_addresses(connection.urls)
    names = ["nats"] if len(addresses) == 1 else [f"nats-{n + 1}" for n in range(len(addresses))]
    return {
        name: _server(address, secured=secured)
        for name, address in zip(names, addresses, strict=True)
    }


def _server(address: ServerAddress, *, secured: bool) -> Document:
    host = f"[{address.host}]" if ":" in address.host else address.host
    server: Document = {
        "host": f"{host}:{address.port}",
        "protocol": "nats" if address.scheme in ("nats", "tls") else address.scheme,
    }
    if address.path:
        server["pathname"] = address.path
    if address.scheme == "tls":
        server["description"] = "With TLS"
    if secured:
        server["security"] = [{"$ref": "#/components/securitySchemes/nats"}]
    return server


def _security(connection: ConnectionOptions) -> Document | None:
    """How one logs in; neither a name nor a secret."""
    if connection.creds_file or connection.nkey_file:
        return {"type": "asymmetricEncryption", "description": "An NKey, or credentials with one"}
    if connection.tls_cert:
        return {"type": "X509", "description": "A client certificate"}
    if connection.token:
        return {"type": "apiKey", "in": "password", "description": "A token"}
    addresses = parse_addresses(connection.urls)
    if connection.user or any(address.user for address in addresses):
        return {"type": "userPassword"}
    return None
