"""Two generated services on real servers: to be watched with `make demo`, and to be tested."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
