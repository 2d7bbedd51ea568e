"""What this service is told from outside, checked as a whole before anything starts.

First come the environment, then `.env`, then `service.toml`, then the preset, then the defaults
below. Nothing else in the service reads the environment. Durations are seconds. A secret is never
part of a `repr`, an error line or a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from jetstream_bridge.core.config import (
    FutureSchema,
    Retention,
    Unhandled,
)
from jetstream_bridge.core.durations import humanize
from jetstream_bridge.core.errors import InvalidSubjectError
from jetstream_bridge.core.subjects import AppNames, validate_app, validate_component
from jetstream_bridge.service.addresses import (
    check_nats_addresses,
    parse_database_address,
    split_addresses,
)
from jetstream_bridge.service.local_folder import default_folder, local_nats_url
from jetstream_bridge.service.presets import PRESETS, Preset
from jetstream_bridge.service.setting_types import (
    Duration,
    Durations,
    ExistingFile,
    LogFormat,
    LogLevel,
    Pooler,
)
from jetstream_bridge.service.settings_sources import (
    PresetSource,
    without_service_links,
)

_MIN_DUPLICATE_WINDOW = 0.1  # seconds; nats-server refuses a shorter one


class BridgeSettings(BaseSettings):
    """The settings of every service. A field's description is the rule in its error line.

    A service's own class adds its settings, and says where its folder is and which file names it.
    """

    root: ClassVar[Path] = Path()  # migrations and relative paths of SQLite are below it

    model_config = SettingsConfigDict(
        env_file=".env",  # of the folder that the process was started in
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # `NATS_USER=` in a .env means: not set
        extra="ignore",
        validate_default=True,
        frozen=True,
    )

    app_name: str = Field(description="this service's name on the wire, like orders-service")
    destination_app: str = Field(description="the other service's name on the wire")
    service_name: str = "Service"
    description: str = ""

    nats_env: str = Field(default="development", description="the first part of every NATS name")
    nats_urls: SecretStr | None = Field(default=None, description="addresses, separated by commas")
    nats_url: SecretStr | None = Field(default=None, description="addresses, separated by commas")
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_token: SecretStr | None = None
    nats_creds_file: ExistingFile | None = Field(
        default=None, description="the path of a .creds file"
    )
    nats_nkey_file: ExistingFile | None = Field(
        default=None, description="the path of an nkey seed"
    )
    nats_tls_ca: ExistingFile | None = Field(default=None, description="the path of a PEM file")
    nats_tls_cert: ExistingFile | None = Field(default=None, description="the path of a PEM file")
    nats_tls_key: ExistingFile | None = Field(default=None, description="the path of a PEM file")

    nats_stream: str | None = Field(default=None, description="a stream's name")
    nats_stream_replicas: int = Field(
        default=1, ge=1, le=5, description="a whole number from 1 to 5"
    )
    nats_max_age: Duration | None = Field(
        default=None, gt=0, description="a duration like 7d; leave it out for no limit"
    )
    nats_duplicate_window: Duration = Field(
        default=120.0, ge=_MIN_DUPLICATE_WINDOW, description="a duration of at least 100ms, like 2m"
    )
    nats_retention: Retention = Field(default="workqueue", description="workqueue or limits")
    nats_max_bytes: int | None = Field(
        default=None, ge=1, description="a whole number of bytes; leave it out for no limit"
    )
    gem_peer: bool = Field(default=False, description="true or false")
    auto_provision: bool = Field(default=True, description="true or false")

    database_url: SecretStr = Field(
        description="postgresql+asyncpg://user:password@host:5432/name or sqlite+aiosqlite:///file"
    )

    database_pooler: Pooler = Field(default="none", description="none or transaction")
    database_statement_timeout: Duration = Field(
        default=10.0, ge=1, description="a duration of at least 1s, like 10s"
    )
    database_lock_timeout: Duration = Field(
        default=5.0, ge=0.1, description="a duration of at least 100ms, like 5s"
    )

    preset: Preset | None = Field(default=None, description=f"one of {', '.join(PRESETS)}")
    use_outbox: bool = Field(default=True, description="true or false")
    use_inbox: bool = Field(default=True, description="true or false")
    use_dlq: bool = Field(default=True, description="true or false")

    max_deliver: int = Field(default=5, ge=1, description="a whole number, 1 or more")
    ack_wait: Duration = Field(
        default=30.0, gt=0, description="a duration like 30s, longer than nothing"
    )
    backoff: Durations = Field(
        default=(1.0, 5.0, 15.0, 30.0, 60.0),
        min_length=1,
        description="one or more durations, separated by commas, like 1s,5s,15s",
    )

    relay_enabled: bool = Field(default=True, description="true or false")
    relay_batch_size: int = Field(
        default=1000, ge=1, le=10_000, description="a whole number from 1 to 10000"
    )
    relay_batch_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=65_536,
        le=1024**3,
        description="a whole number of bytes from 65536 to 1073741824",
    )
    outbox_max_attempts: int = Field(default=10, ge=1, description="a whole number, 1 or more")
    outbox_retention: Duration = Field(
        default=7 * 86400.0, gt=0, description="a duration like 7d, longer than nothing"
    )

    worker_batch_size: int = Field(
        default=200, ge=1, le=5000, description="a whole number from 1 to 5000"
    )
    worker_concurrency: int = Field(
        default=8, ge=1, le=256, description="a whole number from 1 to 256"
    )
    worker_max_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="a whole number of bytes, 1024 or more"
    )
    max_ack_pending: int = Field(
        default=10_000, ge=1, le=1_000_000, description="a whole number from 1 to 1000000"
    )
    worker_exclusive: bool = Field(default=False, description="true or false")
    worker_port: int = Field(default=8001, ge=1, le=65535, description="a port from 1 to 65535")
    handler_timeout: Duration = Field(
        default=300.0, gt=0, description="a duration like 5m, longer than nothing"
    )
    shutdown_grace: Duration = Field(
        default=20.0, gt=0, description="a duration like 20s, longer than nothing"
    )
    unhandled: Unhandled = Field(default="ack", description="ack or dead_letter")
    future_schema: FutureSchema = Field(default="handle", description="handle or dead_letter")
    inbox_retention: Duration = Field(
        default=30 * 86400.0, gt=0, description="a duration like 30d, longer than nothing"
    )

    ready_requires_nats: bool = Field(default=False, description="true or false")
    admin_token: SecretStr | None = None
    log_level: LogLevel = Field(
        default="INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    log_format: LogFormat | None = Field(default=None, description="json or console")
    local_servers_folder: Path | None = Field(default=None, description="the path of a folder")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            without_service_links(env_settings),
            dotenv_settings,
            TomlConfigSettingsSource(settings_cls),
            PresetSource(settings_cls),
        )

    # Relations between settings are checked at the later of the two fields, against what is known
    # of the earlier one: so a fault in one place does not hide a fault in another.

    @field_validator("app_name")
    @classmethod
    def _app_name_is_usable(cls, value: str) -> str:
        return _checked_app(value)

    @field_validator("destination_app")
    @classmethod
    def _destination_is_another_app(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("app_name"):
            raise ValueError(f"{value!r} is APP_NAME too; a service cannot be its own destination")
        return _checked_app(value)

    @field_validator("nats_env")
    @classmethod
    def _env_is_usable(cls, value: str) -> str:
        try:
            return validate_component("value", value)
        except InvalidSubjectError as error:
            raise ValueError(str(error)) from error

    @field_validator("nats_urls", "nats_url")
    @classmethod
    def _addresses_are_usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_nats_addresses(split_addresses(value.get_secret_value()))
        return value

    @field_validator("nats_password")
    @classmethod
    def _password_has_a_user(
        cls, value: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        user = info.data.get("nats_user", "")
        if value is not None and user is None:
            raise ValueError("a password is set and no user; set NATS_USER, or use NATS_TOKEN")
        if value is None and user:
            raise ValueError(f"NATS_USER is {user!r} and no password is set; set NATS_PASSWORD")
        return value

    @field_validator("nats_token", "nats_creds_file", "nats_nkey_file")
    @classmethod
    def _one_way_to_log_in(
        cls, value: SecretStr | str | None, info: ValidationInfo
    ) -> SecretStr | str | None:
        earlier = ("nats_user", "nats_token", "nats_creds_file", "nats_nkey_file")
        if value is not None:
            for name in earlier[: earlier.index(str(info.field_name))]:
                if info.data.get(name) is not None:
                    raise ValueError(f"{name.upper()} is set too; keep one way to log in")
        return value

    @field_validator("nats_tls_key")
    @classmethod
    def _certificate_and_key_come_together(
        cls, value: str | None, info: ValidationInfo
    ) -> str | None:
        certificate = info.data.get("nats_tls_cert", value)
        if (value is None) != (certificate is None):
            raise ValueError("NATS_TLS_CERT and NATS_TLS_KEY need each other; set both or none")
        return value

    @field_validator("nats_stream")
    @classmethod
    def _stream_has_a_usable_name(cls, value: str | None) -> str | None:
        try:
            AppNames(env="any", app="any").stream(value)
        except InvalidSubjectError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("nats_duplicate_window")
    @classmethod
    def _window_fits_the_age(cls, value: float, info: ValidationInfo) -> float:
        age = info.data.get("nats_max_age")
        if age is not None and value > age:
            raise ValueError(
                f"{humanize(value)} is longer than NATS_MAX_AGE ({humanize(age)}), which NATS "
                f"refuses, since it keeps no trace of what it deleted; lower it, or raise the age"
            )
        return value

    @field_validator("database_url")
    @classmethod
    def _database_is_supported(cls, value: SecretStr) -> SecretStr:
        parse_database_address(value.get_secret_value())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_lock_timeout")
    @classmethod
    def _locks_are_given_up_before_statements(cls, value: float, info: ValidationInfo) -> float:
        statement = info.data.get("database_statement_timeout", value)
        if value > statement:
            raise ValueError(
                f"{humanize(value)} is longer than DATABASE_STATEMENT_TIMEOUT "
                f"({humanize(statement)}), and a wait for a lock would look like a slow statement; "
                "lower it, or raise the other"
            )
        return value

    @property
    def database_is_pooled(self) -> bool:
        """Whether a pooler in transaction mode stands before PostgreSQL."""
        address = parse_database_address(self.database_url.get_secret_value())
        return self.database_pooler == "transaction" or address.parameters.pooled

    @property
    def database_idle_timeout(self) -> float:
        """Seconds after which the server ends a transaction in which nothing happens.

        A handler that is in time is never cut off; who is frozen or gone keeps its locks no longer.
        """
        return self.handler_timeout + 30.0

    @property
    def nats_addresses(self) -> tuple[str, ...]:
        """Where NATS is; `NATS_URLS` wins over `NATS_URL`. May hold credentials: don't log it."""
        given = self.nats_urls or self.nats_url
        if not given:
            return (local_nats_url(self.local_servers),)
        return split_addresses(given.get_secret_value())

    @property
    def local_servers(self) -> Path:
        """Where the servers that `make run` starts keep their data."""
        return self.local_servers_folder or default_folder()

    @property
    def nats_is_given(self) -> bool:
        return bool(self.nats_urls or self.nats_url)


def _checked_app(value: str) -> str:
    try:
        return validate_app("value", value)
    except InvalidSubjectError as error:
        raise ValueError(str(error)) from error
