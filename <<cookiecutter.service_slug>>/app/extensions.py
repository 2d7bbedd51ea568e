"""What this service adds to its API, its worker and its commands.

`@extensions.resource` opens an HTTP client or a cache before handlers run and closes it after them,
`@extensions.check()` is a check of readiness, `extensions.log_processors` see each line of the log,
`@extensions.engine` makes the database's engine. docs/extending.md has examples.
"""

from __future__ import annotations

from app.settings import Settings
from jetstream_bridge.service import Extensions

extensions = Extensions(Settings, events="app.events")  # the folder where events are declared
