"""What `topology takeover` and `adopt-gem` share: finding durables to make anew, and doing it."""

from __future__ import annotations

from dataclasses import replace

from jetstream_bridge.cli.service import Service
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec, durable_spec
from jetstream_bridge.topology.durables import Durables
from jetstream_bridge.topology.takeover import Takeover, find_takeovers


def hearing(service: Service) -> list[DurableSpec]:
    """The durables for what comes from other services."""
    config = service.bridge.config
    specs = [s for s in service.handlers.durables(config) if s.source != DEAD_LETTERS]
    return specs or [durable_spec(config, None)]


async def find(service: Service) -> list[Takeover]:
    """Look for durables that have to be made anew; NATS has to be connected."""
    found = await find_takeovers(_api(service), service.bridge.config, hearing(service))
    return [takeover for takeover in found if takeover.needed]


async def make_anew(service: Service) -> list[Takeover]:
    """Make them anew, looking once more whether somebody works on one; return what was done."""
    durables = Durables(_api(service), _provisioning(service))
    done = await find(service)
    for takeover in done:
        await durables.make_anew(takeover.spec)
    return done


def as_data(takeovers: list[Takeover]) -> list[dict[str, object]]:
    return [
        {
            "consumer": takeover.spec.name,
            "limit": takeover.limit,
            "out": takeover.out,
            "left_behind": takeover.left_behind,
        }
        for takeover in takeovers
    ]


def _api(service: Service) -> StreamApi:
    return StreamApi(service.bridge.connection)


def _provisioning(service: Service) -> BridgeConfig:
    return replace(service.bridge.config, auto_provision=True)
