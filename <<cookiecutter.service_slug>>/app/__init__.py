"""The service. It imports nothing, so that `python -m app.cli --help` answers at once."""

import sys
from importlib.util import find_spec

if find_spec("sqlmodel") is None or find_spec("typer") is None:
    raise SystemExit(
        f"the packages of this service are not installed for {sys.executable}; run `make setup`, "
        "and then .venv/bin/python in place of python"
    )
