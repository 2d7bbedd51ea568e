"""`make demo`: two services are generated and started, and their events can be watched.

Status 0: both services agree at the end. Status 1: they do not, or something failed; then the
logs stay. Whatever was started is stopped, also after Ctrl-C; a second one stops it at once.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx

from demo import ROOT
from demo.customers import both_sides
from demo.generating import NotGeneratedError
from demo.pair import FailedError, Pair, remove
from demo.scenes import Demo, NotOnceError, summary
from demo.terminal import Colour, Terminal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LAST_LINES = 12
_BUILD = ROOT / "build"  # no part of the repository
# An event that a killed worker held comes back after this; the default would be a long wait.
_SETTINGS = {"ACK_WAIT": "2s"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL in place of SQLite")
    arguments = parser.parse_args()
    _BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=_BUILD))
    pair = Pair(folder, database="postgresql" if arguments.postgres else "sqlite", settings=_SETTINGS)
    raise SystemExit(_run(pair, Terminal(), keep=arguments.keep))


def _run(pair: Pair, terminal: Terminal, *, keep: bool) -> int:
    begun = time.monotonic()
    try:
        with _signals(pair), pair:
            agreed = _play(pair, terminal, begun)
            if keep:
                _stay(pair, terminal)
    except KeyboardInterrupt:
        terminal.say("stopped")
        agreed = keep
    except (FailedError, NotGeneratedError, NotOnceError, TimeoutError, httpx.HTTPError) as error:
        ...
    return 0


@contextmanager
def _signals(pair: Pair) -> Iterator[None]:
    yield


def _play(pair: Pair, terminal: Terminal, begun: float) -> bool:
    return True


def _stay(pair: Pair, terminal: Terminal) -> None: ...


if __name__ == "__main__":
    main()
