"""The consuming process: `python -m app.worker`.

On SIGTERM or SIGINT it stops asking for events, finishes those in hand within the grace, hands
the rest back to NATS and exits with status 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from app import problems, telemetry
from app.consumers import load_consumers
from app.logs import configure_logging
from app.routers import health, metrics
from app.runtime import Runtime, running
from app.settings import Settings, exit_with, load_settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLOSE_PROBES = 2.0  # seconds

_log = structlog.get_logger("app.worker")  # not __main__, as which it runs


def main() -> None:
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    telemetry.configure_tracing(settings)
    listener = _listen(settings.worker_port)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(work(settings, listener))


async def work(settings: Settings, listener: socket.socket) -> None:
    """Consume until a signal comes; the probes answer on `listener`."""
    stop = _on_signals()
    async with (
        running(settings, consumers=load_consumers()) as runtime,
        _probes(runtime, listener),
    ):
        _log.info("worker started", port=settings.worker_port)
        await stop.wait()
        _log.info("worker stopping", grace=settings.shutdown_grace)
    _log.info("worker stopped")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _listen(port: int) -> socket.socket:
    """Take the port before anything starts, so that a taken one is a bad setting and no crash."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
    except OSError as error:
        listener.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        exit_with([f"WORKER_PORT: {port} {reason}; stop the other process, or write another port"])
    return listener


def _on_signals() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def ask_to_stop() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, ask_to_stop)
    return stop


class _ProbeServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the worker decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _probes(runtime: Runtime, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `/healthz`, `/readyz` and `/metrics` for as long as the body runs."""
    app = FastAPI(openapi_url=None, telemetry=telemetry.FASTAPI)
    problems.install(app)
    app.include_router(health.router)
    app.include_router(metrics.router)
    runtime.attach(app)
    server = _ProbeServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=_CLOSE_PROBES)


if __name__ == "__main__":
    main()
