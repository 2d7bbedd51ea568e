"""How this process sees JetStream, for a person or a dashboard: `GET /health/jetstream`.

The answer is kept for 30 s, because whoever asks every second should not load the server. It may
be asked for anew once in 5 s. It never says anything secret, and comes in a few seconds.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from nats.errors import Error as NatsError

from jetstream_bridge import __version__
from jetstream_bridge.bridge import Bridge
from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.operations.inspection import StreamState
from jetstream_bridge.service.settings import BridgeSettings

T = TypeVar("T")

KEPT = 30.0  # seconds
ANEW_EVERY = 5.0  # seconds


class TooSoon(Exception):  # noqa: N818 - reads as the answer it is
    """Nothing is asked anew yet; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"The state was asked for anew less than {ANEW_EVERY:g} s ago; wait {retry_after} s, "
            "or ask without skip_cache."
        )
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class JetStreamReport:
    """What JetStream looked like from here at one moment."""

    healthy: bool
    state: str  # of the connection
    connected: bool
    connected_at: datetime | None
    connection_error: str | None
    stream: StreamState
    stream_error: str | None
    rtt_ms: float | None
    duration_ms: float


class JetStreamHealth:
    """Looks at JetStream through the connection of one bridge."""

    def __init__(self, bridge: Bridge, settings: BridgeSettings) -> None:
        self._bridge = bridge
        self._settings = settings
        self._lock = asyncio.Lock()
        self._report: JetStreamReport | None = None
        self._asked_at = -math.inf
        self._anew_from = -math.inf

    @property
    def version(self) -> str:
        return __version__

    @property
    def config(self) -> dict[str, str | bool]:
        """What this service was told, as far as it is no secret."""
        settings, config = self._settings, self._bridge.config
        return {
            "env": settings.nats_env,
            "app_name": settings.app_name,
            "destination_app": settings.destination_app,
            "stream": config.stream,
            "use_outbox": settings.use_outbox,
            "use_inbox": settings.use_inbox,
            "use_dlq": settings.use_dlq,
            "auto_provision": settings.auto_provision,
        }

    async def report(self, *, anew: bool = False) -> JetStreamReport:
        """Return the last report if it is not older than 30 s, or a new one.

        Raises `TooSoon` when `anew` is asked for within 5 s of the last time that it was.
        """
        if anew:
            self._take_turn()
        async with self._lock:  # those who ask at the same time share one look
            if anew or self._report is None or loop_time() - self._asked_at >= KEPT:
                self._report = await self._look()
                self._asked_at = loop_time()
            return self._report

    def _take_turn(self) -> None:
        left = self._anew_from - loop_time()
        if left > 0:
            raise TooSoon(math.ceil(left))
        self._anew_from = loop_time() + ANEW_EVERY

    async def _look(self) -> JetStreamReport:
        began = loop_time()
        connection = self._bridge.connection
        connected = connection.connected
        stream = StreamState(name=self._bridge.config.stream, exists=False)
        rtt: float | None = None
        error: str | None = "not connected to NATS"
        if connected:
            (seen, error), rtt = await asyncio.gather(self._look_at_stream(), self._rtt())
            stream = seen or stream
        return JetStreamReport(
            healthy=connected and stream.exists and error is None,
            state=connection.state,
            connected=connected,
            connected_at=connection.connected_at,
            connection_error=connection.error,
            stream=stream,
            stream_error=error,
            rtt_ms=None if rtt is None else round(rtt * 1000, 3),
            duration_ms=round((loop_time() - began) * 1000, 3),
        )

    async def _look_at_stream(self) -> tuple[StreamState | None, str | None]:
        try:
            seen = await self._bridge.inspection.stream()
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            return None, str(error) or type(error).__name__
        return seen, None if seen.exists else f"stream {seen.name} does not exist"

    async def _rtt(self) -> float | None:
        try:
            return await self._bridge.inspection.rtt()
        except (BridgeError, NatsError, OSError, TimeoutError):
            return None  # the stream's own question tells whether JetStream answers
