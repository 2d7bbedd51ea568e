"""The consuming process: `python -m app.worker`.

`--fd N`: the probes answer on a socket that listens already, which the starting process hands over
as file descriptor N, and not on WORKER_PORT.

On SIGTERM or SIGINT it stops asking for events, finishes those in hand within the grace, hands
the rest back to NATS and exits with status 0. A second signal ends it at once; what does not let
itself be stopped is ended a few seconds after the grace, with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from jetstream_bridge.core.errors import ResourceError
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.service import problems, telemetry
from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.runtime import Runtime, running
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import exit_with
from jetstream_bridge.service.shutdown import Shutdown, on_signals
from jetstream_bridge.service.start_checks import LoadConsumers, prepare_process
from jetstream_bridge.web import health, metrics

_CLOSE_PROBES = 2.0  # seconds

_log = get_logger("app.worker")  # not __main__, as which it runs


def run_worker(
    cls: type[BridgeSettings],
    load_consumers: LoadConsumers,
    extensions: Extensions | None = None,
) -> None:
    """Consume until a signal comes; ends this process where it cannot start.

    Status 2 for a bad setting or handler, 1 for a resource of `extensions` that does not open.
    """
    parser = argparse.ArgumentParser(prog="python -m app.worker", allow_abbrev=False)
    parser.add_argument("--fd", type=int, help="listen on this file descriptor, not on WORKER_PORT")
    handed_over: int | None = parser.parse_known_args()[0].fd  # others are the service's own
    settings = prepare_process(cls, load_consumers, extensions)
    listener = _listen(settings.worker_port) if handed_over is None else _inherited(handed_over)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        try:
            runner.run(work(settings, load_consumers(), listener, extensions))
        except ResourceError as error:
            _log.critical("worker cannot start", error=str(error))
            raise SystemExit(1) from None


async def work(
    settings: BridgeSettings,
    consumers: Consumers,
    listener: socket.socket,
    extensions: Extensions | None = None,
) -> None:
    """Consume until a signal comes; the probes answer on `listener`."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    shutdown = Shutdown(settings.shutdown_grace)
    shutdown.arm()

    def ask_to_stop(_number: int) -> None:
        shutdown.ask()
        loop.call_soon_threadsafe(stop.set)

    with on_signals(ask_to_stop), _quietly_cancelled(shutdown):
        async with (
            running(
                settings, consumers=consumers, shutdown=shutdown, extensions=extensions
            ) as runtime,
            _probes(runtime, listener),
        ):
            _log.info("worker started", port=listener.getsockname()[1])
            await stop.wait()
            _log.info("worker stopping", grace=settings.shutdown_grace)
    _log.info("worker stopped")


@contextlib.contextmanager
def _quietly_cancelled(shutdown: Shutdown) -> Iterator[None]:
    """A signal while resources are being opened is no fault."""
    try:
        yield
    except asyncio.CancelledError:
        if not shutdown.asked:
            raise


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _inherited(number: int) -> socket.socket:
    try:
        return socket.socket(fileno=number)
    except OSError as error:
        exit_with([f"--fd: {number} is no socket of this process ({error}); leave it out"])


def _listen(port: int) -> socket.socket:
    """Take the port before anything starts, so that a taken one is a bad setting and no crash."""
    try:
        return _bound(port)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        exit_with([f"WORKER_PORT: {port} {reason}; stop the other process, or write another port"])


def _bound(port: int) -> socket.socket:
    """A socket that takes IPv6 and IPv4, or IPv4 only where the machine has no other."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", port))


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
