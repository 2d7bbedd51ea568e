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

from .clock import loop_time
from .config import BridgeConfig
from .durable_spec import DurableSpec, durable_spec
from .durables import Durables
from .errors import ApiError, PermissionDeniedError
from .stream_api import (
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    SUBJECTS_OVERLAP,
    Json,
    Requests,
    StreamApi,
)
from .subjects import validate_subject
from .topology_plan import Plan, new_stream, plan_stream, stream_fault

logger = logging.getLogger(__name__)

_SETTLE_LIMIT = 20.0  # seconds until two reads must agree
_READS_TO_AGREE = 2
# Somebody else changed the stream between our read and our write: read again.
_RACES = (STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP)


class Topology:
    """Plans and makes the stream and the durable consumers of one service.

    `durables` are those that this process reads from; none where it reads no events at all.
    `problem` is what keeps the service from being ready, or None.
    """

    def __init__(
        self,
        connection: Requests,
        config: BridgeConfig,
        *,
        durables: Sequence[DurableSpec] = (),
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
        self.needed = self._needed_subjects()
        # What the stream had when it was last read; empty: it was not read, or was not there.
        self.known_subjects: tuple[str, ...] = ()

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
                self._note_problem(str(error))
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
        stream = await self._api.stream(self._config.stream)
        self.known_subjects = tuple(_subjects_of(stream))
        return stream

    async def ack_floor(self, source: str | None = None) -> int:
        """The stream sequence up to which the durable for `source` has seen every ack."""
        return await self._durables.ack_floor(self._spec(source).name)

    def _spec(self, source: str | None) -> DurableSpec:
        return self._specs.get(source) or durable_spec(self._config, source)

    def _needed_subjects(self) -> tuple[str, ...]:
        config = self._config
        subjects = [
            config.names.publish(config.destination_app),
            config.names.subscribe(config.destination_app),
            *([config.names.dead_letter] if config.use_dlq else []),
            *(spec.subject for spec in self._specs.values()),
        ]
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
        fault = stream_fault(self._config, stream) if stream is not None else None
        self._note_problem("; ".join([*faults, *([fault] if fault else [])]) or None)

    def _note_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            logger.error("topology: %s", problem)
        self._problem = problem


def _subjects_of(stream: Json | None) -> list[str]:
    return list((stream or {}).get("subjects") or [])


def _checked(subjects: Iterable[str]) -> list[str]:
    return [validate_subject(subject) for subject in subjects]
