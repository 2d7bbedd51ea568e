"""The servers that the template tests its services on, for use outside a service.

They stand in the template, whose folder is made importable here, behind everything else.
"""

from __future__ import annotations

import sys

from demo import ROOT

sys.path.append(str(ROOT / "<<cookiecutter.service_slug>>"))

from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer

__all__ = ["NatsServer", "PostgresServer", "free_port"]
