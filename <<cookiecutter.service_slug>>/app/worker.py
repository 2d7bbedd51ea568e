"""The consuming process: `python -m app.worker`."""

from __future__ import annotations

from app.consumers import load_consumers
from app.extensions import extensions
from app.settings import Settings
from jetstream_bridge.web import run_worker

if __name__ == "__main__":
    run_worker(Settings, load_consumers, extensions)
