"""Starting and stopping servers of a test: waiting, ports."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

START_LIMIT = 30.0  # seconds; a loaded machine needs several
STOP_LIMIT = 15.0  # seconds


def wait_until(condition: Callable[[], bool], *, limit: float, what: str) -> None:
    """Return as soon as `condition()` holds; raise `TimeoutError` naming `what` after `limit` s."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {limit:g} s")
        time.sleep(0.02)


class ServerProcess(ABC):
    """A server as a child process, with a folder of its own that `close` removes."""

    def __init__(self, folder: Path, log_file: str) -> None:
        self.folder = folder
        self.log_file = folder / log_file
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def start(self) -> Self:
        """Start the server and return when it answers."""

    @abstractmethod
    def terminate(self) -> None:
        """Stop the server in order."""

    def kill(self) -> None:
        """Stop the server as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.terminate()
        self.start()

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused one would not notice
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT)


# One that was drawn a moment ago is free until somebody listens there: not to be drawn again.
_drawn: deque[int] = deque(maxlen=1000)


def free_port() -> int:
    """A free port on loopback, below the range that outgoing connections draw from."""
    system = random.SystemRandom()  # two test processes with one seed draw two ports
    while True:
        port = system.randrange(20_000, 32_000)
        if port in _drawn:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _drawn.append(port)
            return port
