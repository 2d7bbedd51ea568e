"""`make demo`: two services are generated and started, and their events can be watched.

Status 0: both services agree at the end. Status 1: they do not, or something failed; then the
logs stay. Whatever was started is stopped, also after Ctrl-C; a second one stops it at once.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import httpx

from demo import ROOT
from demo.customers import both_sides
from demo.generating import NotGeneratedError
from demo.pair import DatabaseKind, FailedError, Pair, remove
from demo.processes import Process
from demo.scenes import Demo, NotOnceError, summary
from demo.terminal import Colour, Terminal, shorten

_BUILD = ROOT / "build"  # no part of the repository
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130
_LAST_LINES = 8  # of a log
_NOTICE = 1.0  # seconds
_MOST_DIFFERENCES = 20  # lines
_LOOK = 0.5  # seconds between two looks whether everything still runs
# An event that a killed worker held comes back after this time; the default is half a minute.
_SETTINGS = {"ACK_WAIT": "3s"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL in place of SQLite")
    arguments = parser.parse_args()
    _BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=_BUILD))
    database: DatabaseKind = "postgresql" if arguments.postgres else "sqlite"
    pair = Pair(folder, database=database, settings=_SETTINGS)
    raise SystemExit(_Run(pair, keep=arguments.keep).run())


class _Run:
    """One run of the demo, and how it ends."""

    def __init__(self, pair: Pair, *, keep: bool) -> None:
        self._pair = pair
        self._keep = keep
        self._terminal = Terminal()
        self._stopping = False

    def run(self) -> int:
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        begun = time.monotonic()
        status = _INTERRUPTED
        try:
            status = self._play()
            if self._keep and status == 0:
                self._stay()
        except KeyboardInterrupt:
            self._terminal.title("Stopping", "Ctrl-C once more to stop at once")
        except (FailedError, NotOnceError, TimeoutError, httpx.HTTPError) as error:
            status = 1
            self._explain(error)
        except NotGeneratedError as error:
            status = 1
            self._terminal.say(str(error), Colour.RED)
        finally:
            self._stopping = True
            self._pair.stop()
        self._close(status, time.monotonic() - begun)
        return status

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self._pair.send_kill()
        else:
            self._stopping = True
            raise KeyboardInterrupt

    def _play(self) -> int:
        self._start()
        with both_sides(self._pair) as (orders, billing):
            demo = Demo(self._pair, orders, billing, self._terminal)
            demo.one_by_one()
            demo.many()
            demo.outage()
            demo.crash()
            return self._judge(demo)

    def _start(self) -> None:
        pair, terminal = self._pair, self._terminal
        kind = "PostgreSQL" if pair.database == "postgresql" else "SQLite"
        terminal.title(f"Two services on {kind}, each the other's destination")
        begun = time.monotonic()
        pair.generate()
        terminal.say(f"generated after {time.monotonic() - begun:.1f} s; now they are started")
        pair.start_servers()
        pair.migrate()
        pair.start_services()
        terminal.say(f"ready after {time.monotonic() - begun:.1f} s:")
        self._show("nats-server", pair.nats.pid, pair.nats.url, pair.nats.log_file)
        if pair.postgres is not None:
            self._show("PostgreSQL", pair.postgres.pid, "a Unix socket", pair.postgres.log_file)
        for service in pair.services:
            self._show(service.api.name, service.api.pid, service.url, service.api.log_file)
            self._show(
                service.worker.name, service.worker.pid, service.worker_url, service.worker.log_file
            )

    def _show(self, name: str, pid: int, url: str, log_file: Path) -> None:
        log = log_file.relative_to(ROOT) if log_file.is_relative_to(ROOT) else log_file
        self._terminal.say(f"{name:<15} process {pid:<8} {url:<24} {log}")

    def _judge(self, demo: Demo) -> int:
        terminal = self._terminal
        terminal.title("Do both sides agree?")
        different = demo.disagreement()
        terminal.say(
            f"{demo.events} events; the {len(demo.times)} in good times: {summary(demo.times)}"
        )
        if not different:
            number = len(demo.billing.customers())
            terminal.say(
                f"yes: {number} customers, equal in id, name, email, version and origin",
                Colour.GREEN,
            )
            return 0
        terminal.say(f"NO: {len(different) // 2} customers differ", Colour.RED)
        for line in different[:_MOST_DIFFERENCES]:
            terminal.say(shorten(line))
        if len(different) > _MOST_DIFFERENCES:
            terminal.say(f"and {len(different) - _MOST_DIFFERENCES} more lines")
        self._show_logs(list(self._pair.processes))
        return 1

    def _stay(self) -> None:
        """Leave everything running until a signal comes, or something ends."""
        self._terminal.title("Everything stays up", "Ctrl-C stops it")
        for service in self._pair.services:
            self._terminal.say(f"{service.name:<8} {service.url}/docs")
        self._terminal.say(f"{'nats':<8} {self._pair.nats.url}, seen from {self._pair.monitor_url}")
        while True:
            self._pair.check()
            time.sleep(_LOOK)

    def _explain(self, error: Exception) -> None:
        """Say what failed, with the last lines of the logs that may tell why."""
        if isinstance(error, httpx.TransportError):
            error = self._dead() or error
        self._terminal.title("It failed")
        self._terminal.say(str(error) or type(error).__name__, Colour.RED)
        process = error.process if isinstance(error, FailedError) else None
        self._show_logs([process] if process else list(self._pair.processes))

    def _dead(self) -> FailedError | None:
        """What has ended; its end may be noticed a moment later than the answer that is missing."""
        try:
            with suppress(TimeoutError):
                self._pair.wait_until(lambda: False, what="an end", limit=_NOTICE)
        except FailedError as error:
            return error
        return None

    def _show_logs(self, processes: list[Process]) -> None:
        for process in processes:
            self._terminal.title(f"The last lines of {process.log_file.relative_to(ROOT)}")
            for line in process.last_lines(_LAST_LINES):
                self._terminal.say(shorten(line))

    def _close(self, status: int, seconds: float) -> None:
        folder = self._pair.folder
        failed = status not in (0, _INTERRUPTED)
        if not failed:
            remove(folder)
        self._terminal.title(
            f"{'Failed' if failed else 'Stopped'} after {seconds:.1f} s",
            f"{folder.relative_to(ROOT)} is {'kept' if failed else 'removed'}",
        )


if __name__ == "__main__":
    main()
