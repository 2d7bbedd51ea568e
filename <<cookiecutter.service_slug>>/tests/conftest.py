"""The fixtures come with the package: docs/testing.md, or `pytest --fixtures`."""

pytest_plugins = ["jetstream_bridge.testing.plugin"]
