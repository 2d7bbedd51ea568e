"""The stream has the subjects that this service needs, and loses none that others put there.

Only additions are made. There is no compare-and-set for a stream's subjects: of two services
that read, add and write at once, one addition is lost. So after a write the stream is read again,
with jitter, until two reads in a row find nothing missing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from nats.js.api import ConsumerInfo

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import ApiError, InvalidSubjectError, PermissionDeniedError
from jetstream_bridge.core.subjects import AppNames, validate_subject
from jetstream_bridge.nats.management import (
    STREAM_INVALID,
    STREAM_NAME_IN_USE,
    STREAM_NEEDS_MAX_BYTES,
    STREAM_NOT_FOUND,
    SUBJECTS_OVERLAP,
    Json,
    Requests,
    StreamApi,
)
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec, durable_spec
from jetstream_bridge.topology.durables import Durables
from jetstream_bridge.topology.plan import Plan, new_stream, plan_stream
from jetstream_bridge.topology.stream_faults import stream_fault

logger = logging.getLogger(__name__)

_SETTLE_LIMIT = 20.0  # seconds until two reads must agree
_READS_TO_AGREE = 2
# Somebody else changed the stream between our read and our write: read again.
_RACES = (STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP)

_REMEDIES = {
    STREAM_INVALID: "set what it names otherwise, such as NATS_DUPLICATE_WINDOW or NATS_MAX_AGE",
    STREAM_NEEDS_MAX_BYTES: "set NATS_MAX_BYTES",
}


class Topology:
    """Plans and makes the stream and the durable consumers of one service.

    `durables` are those that this process reads from; none where it reads no events at all.
    `peers` are services that this one hears or writes to, beside the default one and the sources
    of `durables`: with GEM_PEER all that a gem there looks for is needed too.
    `problem` is what keeps the service from being ready, or None; `was_seen`: JetStream answered
    once, so that it is one to mend and not one to wait out.
    """

    def __init__(
        self,
        connection: Requests,
        config: BridgeConfig,
        *,
        durables: Sequence[DurableSpec] = (),
        peers: Iterable[str] = (),
        settle_limit: float = _SETTLE_LIMIT,
    ) -> None:
        self._api = StreamApi(connection)
        self._config = config
        self._specs = {spec.source: spec for spec in durables}
        self._durables = Durables(self._api, config)
        self._settle_limit = settle_limit
        self._lock = asyncio.Lock()
        self._reported: set[str] = set()
        self._may_ask_owners = True
        self._problem: str | None = f"stream {config.stream} was not looked at yet"
        self.was_seen = False
        self.needed = self._needed_subjects(peers)
        # What the stream had when it was last read; empty: it was not read, or was not there.
        self.known_subjects: tuple[str, ...] = ()
        self.is_work_queue = False  # the stream, when it was last read
        self._made: str | None = None  # when the stream was made that was read last

    @property
    def problem(self) -> str | None:
        problems = (self._problem, self._durables.problem)
        return "; ".join(problem for problem in problems if problem) or None

    @property
    def sources(self) -> tuple[str | None, ...]:
        """The sources whose durables this process reads from."""
        return tuple(self._specs)

    async def plan(self, *, extra_subjects: Iterable[str] = ()) -> Plan:
        """Say what `ensure` and `ensure_consumer` would do; change nothing.

        Raises `NatsConnectionError` when NATS does not answer or does not permit the question.
        """
        plan, _ = await self._read(_checked(extra_subjects))
        changes = [*plan.changes]
        for spec in self._specs.values():
            changes += await self._durables.plan(spec)
        return replace(plan, changes=tuple(changes))

    async def ensure(self, *, extra_subjects: Iterable[str] = ()) -> Plan:
        """Add to the stream what it lacks, and return what is done and what stands in the way.

        A fault of the topology does not raise, it is kept in `problem`: the service serves, and is
        not ready. Raises `NatsConnectionError` when NATS does not answer; call again then.
        """
        extra = _checked(extra_subjects)
        async with self._lock:
            try:
                if self._config.auto_provision:
                    return await self._provision(extra)
                return await self._verify(extra)
            except PermissionDeniedError as error:
                self._note_problem(f"{error} or set AUTO_PROVISION=false")
                raise
            except ApiError as error:
                remedy = _REMEDIES.get(error.err_code)
                self._note_problem(f"{error}; {remedy}" if remedy else str(error))
                return Plan(stream=self._config.stream)

    async def ensure_consumer(self, source: str | None = None) -> ConsumerInfo | None:
        """Make sure of the durable for `source` (None: the default destination).

        It is created, or updated in place where it differs; one that is as it should be is not
        touched. Raises `TopologyError` by its reason, `NatsConnectionError` when NATS does not
        answer. None: this user may not look, so the durable is bound unseen and `problem` says so.
        """
        async with self._lock:
            return await self._durables.ensure(self._spec(source))

    async def subjects(self) -> list[str]:
        """Return the subjects that the stream has now; none where there is no stream."""
        return _subjects_of(await self._stream())

    async def _stream(self) -> Json | None:
        info = await self._api.stream_info(self._config.stream)
        stream: Json | None = info["config"] if info is not None else None
        self._made = info["created"] if info is not None else None
        self.is_work_queue = stream is not None and stream.get("retention") == "workqueue"
        self.known_subjects = tuple(_subjects_of(stream))
        return stream

    def identity(self, source: str | None = None) -> str | None:
        """Tell the present stream from one of its name that was before; None: not known.

        Who may not look at the stream goes by the durable, which was made in it.
        """
        return self._made or self._durables.made(self._spec(source).name)

    def _spec(self, source: str | None) -> DurableSpec:
        return self._specs.get(source) or durable_spec(self._config, source)

    def _needed_subjects(self, peers: Iterable[str]) -> tuple[str, ...]:
        config = self._config
        subjects = [
            config.names.publish(config.destination_app),
            config.names.subscribe(config.destination_app),
            *([config.names.dead_letter] if config.use_dlq else []),
            *(spec.subject for spec in self._specs.values()),
        ]
        if config.gem_peer:
            # A gem that does not find its own subjects does not start (error 10052).
            for app in (config.destination_app, *sources_of(self._specs.values()), *peers):
                subjects += subjects_of_peer(config, app)
        return tuple(dict.fromkeys(subjects))

    async def _read(self, extra: Sequence[str]) -> tuple[Plan, Json | None]:
        stream = await self._stream()
        subjects = list(dict.fromkeys([*self.needed, *extra]))
        return self._compare(stream, extra, await self._owners(subjects)), stream

    def _compare(
        self, stream: Json | None, extra: Sequence[str], owners: Mapping[str, Sequence[str]]
    ) -> Plan:
        return plan_stream(
            self._config, stream=stream, needed=self.needed, extra=extra, owners=owners
        )

    async def _provision(self, extra: Sequence[str]) -> Plan:
        deadline = loop_time() + self._settle_limit
        done: list[str] = []
        agreeing = _READS_TO_AGREE - 1  # nothing written yet: one read is enough
        while True:
            plan, stream = await self._read(extra)
            agreeing = agreeing + 1 if not plan.add else 0
            if agreeing >= _READS_TO_AGREE:
                break
            if loop_time() > deadline:
                self._note_problem(
                    f"the subjects of stream {self._config.stream} kept changing for "
                    f"{self._settle_limit:g} s; {', '.join(plan.add)} did not stay"
                )
                return plan
            if plan.add:
                done += await self._apply(plan, stream)
            await asyncio.sleep(random.uniform(0.05, 0.2))
        self._report(plan, stream)
        return replace(plan, changes=tuple(dict.fromkeys(done)))

    async def _apply(self, plan: Plan, stream: Json | None) -> tuple[str, ...]:
        """Write the additions; return what was done, nothing where somebody was quicker."""
        try:
            if stream is None:
                await self._api.create_stream(new_stream(self._config, plan.add))
            else:
                subjects = [*_subjects_of(stream), *plan.add]
                await self._api.update_stream({**stream, "subjects": subjects})
        except ApiError as error:
            if error.err_code not in _RACES:
                raise
            logger.debug("stream %s changed meanwhile: %s", plan.stream, error)
            return ()
        for change in plan.changes:
            logger.info("topology: %s", change)
        return plan.changes

    async def _verify(self, extra: Sequence[str]) -> Plan:
        """Look without touching, and ask for no more than the user of such a service may."""
        try:
            stream = await self._stream()
        except PermissionDeniedError as error:
            self._note_problem(f"stream {self._config.stream} cannot be looked at: {error}")
            return Plan(stream=self._config.stream)
        plan = self._compare(stream, extra, {})
        if plan.add:
            plan = self._compare(stream, extra, await self._owners_if_permitted(plan.add))
        self._report(plan, stream)
        missing = ", ".join(subject for subject in plan.add if subject in self.needed)
        if missing:
            what = f"stream {self._config.stream} "
            what += "does not exist" if stream is None else f"lacks {missing}"
            self._note_problem(
                f"{what}, and AUTO_PROVISION is false; provision it with subjects {missing}"
            )
        for spec in self._durables.unseen:
            await self._durables.ensure(spec)
        return plan

    async def _owners_if_permitted(self, subjects: Sequence[str]) -> dict[str, list[str]]:
        """Who has what our stream lacks; whoever provisions it will be told in any case.

        Asked until it is refused: each refusal is a line in the server's log.
        """
        if not self._may_ask_owners:
            return {}
        try:
            return await self._owners(subjects)
        except PermissionDeniedError:
            self._may_ask_owners = False
            return {}

    async def _owners(self, subjects: Sequence[str]) -> dict[str, list[str]]:
        found = await asyncio.gather(*(self._api.streams_with(subject) for subject in subjects))
        return dict(zip(subjects, found, strict=True))

    def _report(self, plan: Plan, stream: Json | None) -> None:
        for text in (*plan.differences, *map(str, plan.conflicts)):
            if text not in self._reported:
                self._reported.add(text)
                logger.warning("topology: %s", text)
        faults = [str(conflict) for conflict in plan.blocked]
        fault = None
        if stream is not None:
            fault = stream_fault(self._config.stream, stream, self.needed)
        self._note_problem("; ".join([*faults, *([fault] if fault else [])]) or None)

    def _note_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            logger.error("topology: %s", problem)
        self._problem = problem
        self.was_seen = True


def sources_of(durables: Iterable[DurableSpec]) -> list[str]:
    """The services by name that these durables hear, the default one excepted."""
    return [spec.source for spec in durables if spec.source and spec.source != DEAD_LETTERS]


def subjects_of_peer(config: BridgeConfig, app: str, destination: str | None = None) -> list[str]:
    """The subjects that `app` needs, which exchanges events with `destination` (None: with us).

    Those are what a gem looks for when it starts: both directions and its dead letters.
    """
    names = AppNames(config.env, app)
    other = config.app_name if destination is None else destination
    if app == other:
        raise InvalidSubjectError(f"{app}:{other} names one service twice; name two")
    return [names.publish(other), names.subscribe(other), names.dead_letter]


def _subjects_of(stream: Json | None) -> list[str]:
    return list((stream or {}).get("subjects") or [])


def _checked(subjects: Iterable[str]) -> list[str]:
    return [validate_subject(subject) for subject in subjects]
