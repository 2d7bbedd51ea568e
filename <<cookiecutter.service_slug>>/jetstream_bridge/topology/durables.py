"""The durable consumers of this service: there, and as configured, before anyone pulls.

A durable is shared by every worker of the service and holds what was delivered to whom. So it is
created, or updated in place when its configuration differs, and otherwise not touched. Only a
difference that the server cannot update makes it anew, and only on a work queue: there a new
durable finds exactly the messages that are not acknowledged yet. On a stream that keeps its
messages it would be given all of them again; then the operator has to decide.
"""

from __future__ import annotations

import copy
import logging
import re

from nats.js.api import ConsumerInfo

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import (
    ApiError,
    ConsumerMissingError,
    PermissionDeniedError,
    StreamMissingError,
    TopologyError,
)
from jetstream_bridge.core.subjects import overlaps
from jetstream_bridge.nats.management import (
    CONSUMER_CREATE,
    CONSUMER_FILTER_TAKEN,
    CONSUMER_MAX_ACK_PENDING,
    STREAM_NOT_FOUND,
    Json,
    StreamApi,
)
from jetstream_bridge.topology.durable_names import DurableSpec
from jetstream_bridge.topology.plan import consumer_differences, merged_consumer, new_consumer
from jetstream_bridge.topology.takeover import check_foreign

logger = logging.getLogger(__name__)


class Durables:
    """Makes sure of this service's durable consumers on its stream."""

    def __init__(self, api: StreamApi, config: BridgeConfig) -> None:
        self._api = api
        self._config = config
        self._problems: dict[str, str] = {}
        self._unseen: dict[str, DurableSpec] = {}
        self._made: dict[str, str] = {}
        self._max_ack_pending = config.max_ack_pending  # or less, as the server said

    @property
    def problem(self) -> str | None:
        """What is wrong with the consumers asked for so far."""
        return "; ".join(self._problems.values()) or None

    @property
    def unseen(self) -> list[DurableSpec]:
        """The durables that this user was not permitted to look at."""
        return list(self._unseen.values())

    async def plan(self, spec: DurableSpec) -> list[str]:
        """Say what `ensure` would change for `spec`."""
        wanted = self._wanted(spec)
        durable = wanted["durable_name"]
        try:
            info = await self._api.consumer(self._config.stream, durable)
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            info = None
        if info is None:
            return [f"create consumer {durable} for subject {wanted['filter_subject']}"]
        differences = consumer_differences(wanted, info["config"])
        return [f"update consumer {durable}: {', '.join(differences)}"] if differences else []

    async def ensure(self, spec: DurableSpec) -> ConsumerInfo | None:
        """Create or update the durable; raise `TopologyError` if that cannot be.

        Returns None where this user may neither provision nor look: then it is bound unseen. It
        may well be there, so its events are handled, and `problem` says what is not known.
        """
        wanted = self._wanted(spec)
        durable = wanted["durable_name"]
        try:
            info = await self._within_limits(wanted)
        except TopologyError as error:
            self._problems[durable] = str(error)
            raise
        except PermissionDeniedError as error:
            if self._config.auto_provision:
                raise
            self._problems[durable] = f"consumer {durable} is bound unseen: {error}"
            self._unseen[durable] = spec
            return None
        self._problems.pop(durable, None)
        self._unseen.pop(durable, None)
        self._made[durable] = str(info["created"])
        return _parsed(info)

    async def make_anew(self, spec: DurableSpec) -> ConsumerInfo | None:
        """Delete the durable and make it again: its messages come again that are in the stream."""
        await self._api.delete_consumer(self._config.stream, spec.name)
        return await self.ensure(spec)

    def made(self, durable: str) -> str | None:
        """When the durable was made, as it was last seen."""
        return self._made.get(durable)

    def _wanted(self, spec: DurableSpec) -> Json:
        return new_consumer(
            durable=spec.name,
            subject=spec.subject,
            ack_wait=spec.ack_wait,
            max_ack_pending=self._max_ack_pending,
        )

    async def _within_limits(self, wanted: Json) -> Json:
        """Ensure the durable; with what the server allows where it allows less than we ask."""
        try:
            return await self._ensure(wanted)
        except ApiError as error:
            limit = _limit_in(error)
            if limit is None or limit >= wanted["max_ack_pending"]:
                raise
        logger.warning(
            "NATS allows %d messages of consumer %s to be out at once and not %d; with so many "
            "behind events that wait for another try, the others wait too",
            limit,
            wanted["durable_name"],
            wanted["max_ack_pending"],
        )
        wanted["max_ack_pending"] = self._max_ack_pending = limit
        return await self._ensure(wanted)

    async def _ensure(self, wanted: Json) -> Json:
        if not self._config.auto_provision:
            return await self._verify(wanted)
        info = await self._look(wanted)
        if info is None:
            logger.info("creating consumer %s", wanted["durable_name"])
            return await self._put(wanted, wanted)
        await check_foreign(self._api, self._config.stream, info)
        differences = consumer_differences(wanted, info["config"])
        if not differences:
            return info
        logger.info("updating consumer %s: %s", wanted["durable_name"], ", ".join(differences))
        try:
            return await self._put(wanted, merged_consumer(wanted, info["config"]))
        except ApiError as error:
            if error.err_code != CONSUMER_CREATE:
                raise
            return await self._make_anew(wanted, differences, error)

    async def _verify(self, wanted: Json) -> Json:
        """Look without touching; a difference is only told."""
        durable = wanted["durable_name"]
        info = await self._look(wanted)
        if info is None:
            raise ConsumerMissingError(
                f"consumer {durable} does not exist on stream {self._config.stream} and "
                f"AUTO_PROVISION is false; create it for subject {wanted['filter_subject']}"
            )
        config = info["config"]
        if not _reads(config, wanted["filter_subject"]):
            raise TopologyError(
                f"consumer {durable} reads {_filters(config) or 'every subject'} and not "
                f"{wanted['filter_subject']}; correct its filter (AUTO_PROVISION is false)"
            )
        await check_foreign(self._api, self._config.stream, info)
        if differences := consumer_differences(wanted, config):
            logger.warning("consumer %s differs: %s", durable, ", ".join(differences))
        return info

    async def _look(self, wanted: Json) -> Json | None:
        try:
            return await self._api.consumer(self._config.stream, wanted["durable_name"])
        except ApiError as error:
            raise self._explained(error) from error

    async def _put(self, wanted: Json, config: Json) -> Json:
        durable = wanted["durable_name"]
        try:
            info = await self._api.put_consumer(self._config.stream, config)
        except ApiError as error:
            if error.err_code in CONSUMER_FILTER_TAKEN:
                raise TopologyError(await self._taken(wanted)) from error
            raise self._explained(error) from error
        # A server that does not know a field drops it and says nothing.
        if differences := consumer_differences(wanted, info["config"]):
            raise TopologyError(
                f"NATS made consumer {durable} otherwise than asked: {', '.join(differences)}; "
                "use a newer nats-server"
            )
        return info

    async def _make_anew(self, wanted: Json, differences: list[str], error: ApiError) -> Json:
        durable, stream = wanted["durable_name"], self._config.stream
        found = await self._api.stream(stream)
        if found is None or found.get("retention") != "workqueue":
            raise TopologyError(
                f"consumer {durable} cannot be updated ({', '.join(differences)}: "
                f"{error.description}), and a new one would be given every message of stream "
                f"{stream} again; if that is wanted, delete the consumer"
            ) from error
        logger.warning("consumer %s cannot be updated and is made anew", durable)
        await self._api.delete_consumer(stream, durable)
        return await self._put(wanted, wanted)

    async def _taken(self, wanted: Json) -> str:
        """Name who reads the subject on a work queue, where only one may."""
        subject = wanted["filter_subject"]
        others = [
            str(info["name"])
            for info in await self._api.consumers(self._config.stream)
            if _reads(info["config"], subject) and info["name"] != wanted["durable_name"]
        ]
        by = f"consumer {', '.join(others)}" if others else "another consumer"
        return (
            f"subject {subject} of work queue {self._config.stream} is read by {by} already, and "
            f"it may have one reader only; delete that one to make {wanted['durable_name']}"
        )

    def _explained(self, error: ApiError) -> TopologyError:
        if error.err_code == STREAM_NOT_FOUND:
            stream = self._config.stream
            return StreamMissingError(f"stream {stream} does not exist; run `topology ensure`")
        return error


def _limit_in(error: ApiError) -> int | None:
    """How many messages may be out, which the server tells in its refusal only."""
    found = re.search(r"limit of (\d+)$", error.description)
    if error.err_code != CONSUMER_MAX_ACK_PENDING or found is None:
        return None
    return int(found[1]) or None


def _parsed(info: Json) -> ConsumerInfo:
    parsed: ConsumerInfo = ConsumerInfo.from_response(copy.deepcopy(info))
    return parsed


def _filters(config: Json) -> list[str]:
    single = config.get("filter_subject")
    return [single] if single else list(config.get("filter_subjects") or [])


def _reads(config: Json, subject: str) -> bool:
    filters = _filters(config)
    return not filters or any(overlaps(one, subject) for one in filters)
