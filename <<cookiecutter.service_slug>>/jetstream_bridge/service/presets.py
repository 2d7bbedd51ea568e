"""Named sets of defaults. A setting that is given by name, anywhere, wins over the preset's.

Addresses, names and secrets are never part of one. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Preset = Literal[
    "development", "test", "staging", "production", "high_throughput", "maximum_reliability"
]
PRESETS: Mapping[Preset, Mapping[str, object]] = {
    "development": {
        "use_outbox": False,
        "use_inbox": False,
        "use_dlq": False,
        "max_deliver": 3,
        "ack_wait": 10.0,
        "backoff": (1.0, 2.0, 5.0),
    },
    "test": {
        "use_outbox": False,
        "use_inbox": False,
        "use_dlq": False,
        "max_deliver": 2,
        "ack_wait": 5.0,
        "backoff": (0.1, 0.5),
    },
    "staging": {
        "use_outbox": True,
        "use_inbox": True,
        "use_dlq": True,
        "max_deliver": 3,
        "ack_wait": 15.0,
        "backoff": (1.0, 5.0, 15.0),
    },
    "production": {
        "use_outbox": True,
        "use_inbox": True,
        "use_dlq": True,
        "max_deliver": 5,
        "ack_wait": 30.0,
        "backoff": (1.0, 5.0, 15.0, 30.0, 60.0),
    },
    "high_throughput": {
        "use_outbox": False,
        "use_inbox": False,
        "use_dlq": True,
        "max_deliver": 3,
        "ack_wait": 10.0,
        "backoff": (1.0, 2.0, 5.0),
    },
    "maximum_reliability": {
        "use_outbox": True,
        "use_inbox": True,
        "use_dlq": True,
        "max_deliver": 10,
        "ack_wait": 60.0,
        "backoff": (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
    },
}
