"""Everything at once, for a laptop: `python -m app.dev`, or `make run`."""

from __future__ import annotations

from app.settings import Settings
from jetstream_bridge.service import run_dev

if __name__ == "__main__":
    run_dev(Settings)
