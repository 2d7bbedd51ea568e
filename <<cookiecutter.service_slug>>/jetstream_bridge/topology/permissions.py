"""The NATS rights that a service needs, each with its reason: enough for all it does, and no more.

A service that binds only (AUTO_PROVISION=false) asks for nothing beyond its runtime rights, so
that a user with exactly these causes no refusal. Without any one of them something stops working,
and readiness names the right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec


@dataclass(frozen=True, slots=True)
class Right:
    """One subject on which something is allowed, and what for."""

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user of a server's account is allowed; everything else is refused to it."""

    title: str
    publish: tuple[Right, ...]
    subscribe: tuple[Right, ...]

    def as_config(self) -> str:
        """The `permissions` of a user, as nats-server's configuration file wants them."""
        lines = [f"# {self.title}", "permissions {"]
        for kind, rights in (("publish", self.publish), ("subscribe", self.subscribe)):
            lines += [f"  {kind} {{", "    allow: ["]
            for right in rights:
                # Quotes and backslashes are escaped as in JSON; the rest is taken as it is.
                subject = json.dumps(right.subject, ensure_ascii=False)
                lines += [f"      # {right.reason}", f"      {subject}"]
            lines += ["    ]", "  }"]
        return "\n".join([*lines, "}", ""])

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def inbox_prefix(config: BridgeConfig) -> str:
    """What begins the subjects on which this service, and no other, gets its answers."""
    return f"_INBOX_{config.app_name}"


def permissions(
    config: BridgeConfig,
    durables: Sequence[DurableSpec],
    *,
    destinations: Sequence[str] = (),
    admin: bool = False,
) -> Permissions:
    """What a service with this configuration needs, `config.auto_provision` included.

    `durables` are those that its handlers need. `destinations` are services beside the default one
    to which it sends. `admin` adds what the people need who look at dead letters, replay or remove
    them, and look at the topology; it goes beyond the service's own subjects, since JetStream
    cannot restrict it to them.
    """
    rights = [*runtime_rights(config, durables, destinations=destinations)]
    does = "binds to what an administrator provisioned"
    if config.auto_provision:
        rights += _provisioning(config, durables)
        does = "provisions stream and consumers itself"
    if admin:
        rights += _operating(config, durables)
        does += ", and its operators replay dead letters"
    unique: dict[str, Right] = {}
    for right in rights:
        unique.setdefault(right.subject, right)
    answers = Right(f"{inbox_prefix(config)}.>", "what the server answers, and the events")
    return Permissions(
        title=f"{config.app_name} in {config.env}, which {does}",
        publish=tuple(unique.values()),
        subscribe=(answers,),
    )


def runtime_rights(
    config: BridgeConfig, durables: Sequence[DurableSpec], *, destinations: Sequence[str] = ()
) -> Iterator[Right]:
    """What a service publishes on when stream and consumers are there."""
    names, api = config.names, "$JS.API"
    for destination in (config.destination_app, *destinations):
        yield Right(names.publish(destination), f"its events for {destination}")
    if durables and config.use_dlq:
        yield Right(names.dead_letter, "its dead letters")
    yield Right(f"{api}.STREAM.INFO.{config.stream}", "sees what the stream has; for readiness")
    if config.use_outbox:
        why = "after a crash, finds out which of its events the stream has; sees all in it"
        yield Right(f"{api}.STREAM.MSG.GET.{config.stream}", why)
    for spec in durables:
        which = f"{config.stream}.{spec.name}"
        events = _events_of(config, spec)
        yield Right(f"{api}.CONSUMER.INFO.{which}", f"sees the consumer of {events}; for readiness")
        yield Right(f"{api}.CONSUMER.MSG.NEXT.{which}", f"asks for {events}")
        yield Right(f"$JS.ACK.{which}.>", f"acknowledges {events}, or gives them back")


def _provisioning(config: BridgeConfig, durables: Sequence[DurableSpec]) -> Iterator[Right]:
    api, stream = "$JS.API", config.stream
    yield Right(f"{api}.STREAM.NAMES", "finds out which stream owns a subject")
    yield Right(f"{api}.STREAM.CREATE.{stream}", "makes the stream where there is none")
    yield Right(f"{api}.STREAM.UPDATE.{stream}", "adds its subjects to the stream")
    for spec in durables:
        which = f"{stream}.{spec.name}"
        yield Right(f"{api}.CONSUMER.DURABLE.CREATE.{which}", "makes or updates the consumer")
        yield Right(f"{api}.CONSUMER.DELETE.{which}", "makes it anew when it cannot be updated")
    yield Right(f"{api}.CONSUMER.LIST.{stream}", "names who reads its subjects, and who does not")


def _operating(config: BridgeConfig, durables: Sequence[DurableSpec]) -> Iterator[Right]:
    api, stream = "$JS.API", config.stream
    whole = "of any service on this stream"
    yield Right(f"{api}.STREAM.MSG.GET.{stream}", f"reads dead letters; and messages {whole}")
    yield Right(f"{api}.STREAM.MSG.DELETE.{stream}", f"removes them; and messages {whole}")
    for spec in durables:
        if spec.source != DEAD_LETTERS:
            yield Right(spec.subject, f"replays {_events_of(config, spec)}")
    yield Right(f"{api}.STREAM.NAMES", "shows which stream owns a subject")
    yield Right(f"{api}.CONSUMER.LIST.{stream}", "shows who reads the stream, and how far")


def _events_of(config: BridgeConfig, spec: DurableSpec) -> str:
    if spec.source == DEAD_LETTERS:
        return "its own dead letters"
    return f"events from {spec.source or config.destination_app}"
