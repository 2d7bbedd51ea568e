"""What can be known to be wrong before a process starts, without asking anybody.

`validate` says it, and the API and the worker end for it: one line for each fault, status 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from jetstream_bridge.core.errors import ConfigurationError, InvalidSubjectError, RegistrationError
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.nats.options import NatsOptions
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.collector import spare_collector
from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.logs import configure_logging
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import exit_with, load_settings
from jetstream_bridge.service.telemetry import configure_tracing

_Service = TypeVar("_Service", bound=BridgeSettings)
LoadConsumers = Callable[[], Consumers]


def checked_settings(
    cls: type[_Service], load_consumers: LoadConsumers, extensions: Extensions | None = None
) -> _Service:
    """Return the settings with which this process can start; end it where it cannot."""
    settings = load_settings(cls)
    if found := faults(settings, load_consumers, lambda: extensions):
        exit_with(found)
    return settings


def prepare_process(
    cls: type[_Service], load_consumers: LoadConsumers, extensions: Extensions | None = None
) -> _Service:
    """Return the settings of the process that starts now, with its log and its tracing set up.

    Ends it with status 2, and a line for each fault, where it cannot start.
    """
    settings = checked_settings(cls, load_consumers, extensions)
    processors = extensions.log_processors if extensions is not None else ()
    configure_logging(settings.log_level, settings.log_format, processors)
    configure_tracing(settings)
    spare_collector()
    return settings


def faults(
    settings: BridgeSettings,
    load_consumers: LoadConsumers,
    load_extensions: Callable[[], Extensions | None] = lambda: None,
) -> list[str]:
    """What is wrong with the login's files, the handlers and the events; one line for each."""
    found = (_login(settings), _handlers(settings, load_consumers), _events(load_extensions))
    return list(dict.fromkeys(fault for fault in found if fault))


def _login(settings: BridgeSettings) -> str | None:
    """What is wrong with the files that the connection to NATS needs."""
    try:
        NatsOptions(bridge_config(settings).connection).arguments()
    except ConfigurationError as error:
        return str(error)
    return None


def _handlers(settings: BridgeSettings, load_consumers: LoadConsumers) -> str | None:
    try:
        consumers = load_consumers()
        consumers.check()
        consumers.durables(bridge_config(settings))
    except RegistrationError as error:
        return str(error)
    return None


def _events(load_extensions: Callable[[], Extensions | None]) -> str | None:
    try:
        extensions = load_extensions()
        if extensions is not None:
            _ = extensions.events
    except (RegistrationError, InvalidSubjectError) as error:
        return str(error)
    return None
