"""Processes that are started and stopped one by one; all that one says goes to its own file.

Each leads a session of its own, so Ctrl-C reaches the program that started it and not the
process, which is then stopped in order.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

# Runs modules of a service as forks of one process that has imported them.
WARM_START = Path(__file__).with_name("parts") / "warm_start.py"


class Process:
    """One process that can be started, stopped and started again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log_file: Path,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = list(command)
        self._folder = folder
        self._environment = dict(environment)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status if the process ended by itself; None while it runs, or was stopped."""
        return None if self._running is None else self._running.poll()

    def start(self) -> Self:
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already, as process {self.pid}")
        with self.log_file.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def stop(self, *, grace: float) -> int | None:
        """Ask the process to end (SIGTERM), or kill it after `grace` seconds; return its status.

        None: there is nothing to stop.
        """
        return self._end(signal.SIGTERM, grace)

    def kill(self) -> int | None:
        """End the process at once, as `kill -9` does."""
        return self._end(signal.SIGKILL, None)

    def freeze(self) -> None:
        """Stop the process in the midst of whatever it does (SIGSTOP)."""
        self._started().send_signal(signal.SIGSTOP)

    def send_kill(self) -> None:
        """Have the process end, and leave it to `stop`, which may be waiting, to notice."""
        if self._running is not None:
            self._running.kill()  # of one that has ended it does nothing

    def last_lines(self, number: int) -> list[str]:
        if not self.log_file.exists():
            return []
        return self.log_file.read_text(errors="replace").splitlines()[-number:]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._running

    def _end(self, how: signal.Signals, grace: float | None) -> int | None:
        if self._running is None:
            return None
        process = self._running
        process.send_signal(how)  # to one that has ended already, it is nothing
        process.send_signal(signal.SIGCONT)  # a frozen one would not notice
        try:
            status = process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._running = None  # only now: an interruption above leaves it to the next attempt
        return status
