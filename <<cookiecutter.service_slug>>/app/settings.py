"""This service's settings: those of the package, and its own beside them.

First come the environment, then `.env`, then `service.toml`, then the defaults. A field
`api_key: SecretStr` is set by API_KEY.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic_settings import SettingsConfigDict

from jetstream_bridge.service import BridgeSettings

ROOT = Path(__file__).resolve().parent.parent


class Settings(BridgeSettings):
    model_config = SettingsConfigDict(toml_file=ROOT / "app/service.toml")
    root: ClassVar[Path] = ROOT
