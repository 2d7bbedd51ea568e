"""Settings: where they come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from app.settings import Settings
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.service.addresses import parse_database_address
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.configuration_warnings import configuration_warnings
from jetstream_bridge.service.presets import PRESETS
from jetstream_bridge.service.settings_loading import InvalidSettings, read_settings
from tests.processes import import_path
from tests.service.conftest import MakeSettings

_DURATIONS = {"ack_wait": 30.0, "outbox_retention": 604_800.0, "inbox_retention": 2_592_000.0}


def _faults(make_settings: MakeSettings, **values: object) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        make_settings(**values)
    return caught.value.faults


def test_the_defaults_are_those_of_the_contract(make_settings: MakeSettings) -> None:
    settings = make_settings(nats_urls=None)

    assert settings.nats_env == "development"
    assert settings.nats_addresses == ("nats://localhost:4222",)
    assert (settings.use_outbox, settings.use_inbox, settings.use_dlq) == (True, True, True)
    assert settings.backoff == (1.0, 5.0, 15.0, 30.0, 60.0)
    assert (settings.max_deliver, settings.outbox_max_attempts) == (5, 10)
    assert (settings.worker_batch_size, settings.worker_concurrency) == (200, 8)
    assert (settings.worker_port, settings.shutdown_grace) == (8001, 20.0)
    assert {name: getattr(settings, name) for name in _DURATIONS} == _DURATIONS
    assert configuration_warnings(settings) == []


def test_the_environment_wins_over_env_file_and_service_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service_file = tmp_path / "service.toml"
    service_file.write_text(
        'app_name = "orders"\ndestination_app = "from-toml"\nnats_env = "from-toml"\n'
        'database_url = "sqlite+aiosqlite:///from-toml.db"\n'
    )
    env_file = tmp_path / ".env"
    env_file.write_text("DESTINATION_APP=from-env-file\nNATS_ENV=from-env-file\nMAX_DELIVER=\n")
    monkeypatch.setenv("NATS_ENV", "from-environment")

    class FromFiles(Settings):
        model_config = SettingsConfigDict(toml_file=service_file, env_file=env_file)

    settings = read_settings(FromFiles)

    assert settings.app_name == "orders"
    assert settings.destination_app == "from-env-file"
    assert settings.nats_env == "from-environment"
    assert settings.max_deliver == 5, "an empty line in .env means: not set"


def test_a_service_file_that_is_not_toml_is_one_fault(tmp_path: Path) -> None:
    broken = tmp_path / "service.toml"
    broken.write_text("app_name = orders")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=broken)

    with pytest.raises(InvalidSettings, match=r"service\.toml: it is not TOML"):
        read_settings(FromFile)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("NATS_ENV=x".encode("utf-16"), r"\.env: it is not UTF-8 \(byte 0 is 0xff, as in UTF-16\)"),
        (b"NATS_ENV=sch\xf6n", r"\.env: it is not UTF-8 \(byte 12 is 0xf6, as in another encoding"),
    ],
)
def test_an_env_file_in_another_encoding_is_one_fault(
    tmp_path: Path, content: bytes, said: str
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_bytes(content)

    class FromFile(Settings):
        model_config = SettingsConfigDict(env_file=env_file)

    with pytest.raises(InvalidSettings, match=said) as caught:
        read_settings(FromFile)
    assert len(caught.value.faults) == 1


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"\xef\xbb\xbfNATS_ENV=here\n")

    class FromFile(Settings):
        model_config = SettingsConfigDict(env_file=env_file)

    named = {"app_name": "orders", "destination_app": "billing"}
    assert read_settings(FromFile, database_url="sqlite+aiosqlite:///x", **named).nats_env == "here"


def test_an_address_that_kubernetes_put_there_is_no_port(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_PORT", "tcp://10.0.0.1:80")
    settings = make_settings()

    assert settings.worker_port == 8001
    (warning,) = configuration_warnings(settings)
    assert warning.startswith("WORKER_PORT=tcp://10.0.0.1:80 is the address of a Service of")
    monkeypatch.setenv("WORKER_PORT", "8002")
    assert make_settings().worker_port == 8002


def test_every_setting_that_kubernetes_can_put_there_is_guarded() -> None:
    """It sets {SERVICE}_PORT and some more for each Service; these fields have such names."""
    injected = r".*_(PORT|SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)"
    names = [name for name in Settings.model_fields if re.fullmatch(injected, name.upper())]
    assert names == ["worker_port"]


def test_a_name_that_is_almost_a_settings_is_pointed_out(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WORKER_CONCURENCY=4\nSOMETHING_ELSE=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAX_DELIVERY", "3")

    assert configuration_warnings(make_settings()) == [
        "MAX_DELIVERY is no setting, and is not used; is MAX_DELIVER meant?",
        "WORKER_CONCURENCY is no setting, and is not used; is WORKER_CONCURRENCY meant?",
    ]


def test_nats_urls_wins_over_nats_url(make_settings: MakeSettings) -> None:
    both = make_settings(nats_urls="nats://a:1, tls://b:2", nats_url="nats://c:3")

    assert both.nats_addresses == ("nats://a:1", "tls://b:2")
    assert make_settings(nats_urls=None, nats_url="nats://c:3").nats_addresses == ("nats://c:3",)


@pytest.mark.parametrize("scheme", ["nats", "tls", "nats+tls", "ws", "wss"])
def test_every_scheme_of_the_contract_is_accepted(make_settings: MakeSettings, scheme: str) -> None:
    assert make_settings(nats_urls=f"{scheme}://host:4222").nats_addresses == (
        f"{scheme}://host:4222",
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("app_name", "a.b", "APP_NAME: value 'a.b' contains '.'"),
        ("app_name", "x" * 256, "has no usable length; write 1 to 255 characters"),
        ("app_name", " ", "APP_NAME: value ' ' contains ' '"),
        ("app_name", "dlq", "APP_NAME: value 'dlq' would make the dead-letter subject"),
        ("destination_app", "orders", "DESTINATION_APP: 'orders' is APP_NAME too"),
        ("destination_app", "*", "contains '*'"),
        ("nats_env", "two words", "NATS_ENV: value 'two words' contains ' '"),
        ("nats_urls", "localhost:4222", "NATS_URLS: the address (not shown) has no scheme"),
        ("nats_urls", "http://localhost", "the address, 'http://localhost', has a scheme that is"),
        ("nats_urls", "nats://a, b", "NATS_URLS: address 2 of 2 (not shown) has no scheme; write"),
        ("nats_urls", "nats://host:port", "has no usable host or port"),
        ("nats_urls", "nats://a, wss://b", "mixes WebSocket addresses with others"),
        ("nats_urls", " , ", "no address in it"),
        ("nats_password", "x", "set NATS_USER, or use NATS_TOKEN"),
        ("nats_creds_file", "/no/such/file", "'/no/such/file' is not a file"),
        ("nats_nkey_file", "SUAIBDPBAUTW", "the value (not shown) does not look like a path"),
        ("nats_creds_file", f"-----BEGIN {'x' * 5000}/", "(not shown) does not look like a path"),
        ("nats_tls_key", "-----BEGIN KEY-----\n/a.b", "(not shown) does not look like a path"),
        ("nats_stream", "a.b", "NATS_STREAM"),
        ("nats_stream_replicas", "6", "NATS_STREAM_REPLICAS: '6' should be less than or equal"),
        ("nats_max_age", "1m", "NATS_DUPLICATE_WINDOW: 2m is longer than NATS_MAX_AGE (1m)"),
        ("nats_retention", "interest", "should be 'workqueue' or 'limits'"),
        ("database_url", "postgresql+psycopg://h/db", "write postgresql+asyncpg://"),
        ("database_url", "postgres://h/db?sslmode=on", "sslmode: 'on' is not one of disable"),
        ("database_url", "sqlite:///a.db", "write sqlite+aiosqlite://"),
        ("database_url", "mysql://h/db", "postgresql+asyncpg://… or sqlite+aiosqlite://"),
        ("database_url", "sqlite+aiosqlite://", "is a database in memory"),
        ("database_url", "sqlite+aiosqlite:///:memory:", "is a database in memory"),
        ("database_url", "postgresql+asyncpg://h", "names no database"),
        ("database_url", "nonsense", "it is not a database address that can be read"),
        ("preset", "fast", "PRESET: 'fast' should be 'development', 'test'"),
        ("use_inbox", "maybe", "USE_INBOX: 'maybe' should be a valid boolean"),
        ("max_deliver", "0", "MAX_DELIVER: '0' should be greater than or equal to 1"),
        ("ack_wait", "soon", "ACK_WAIT: 'soon' is not a duration; write a number with ms, s"),
        ("ack_wait", "0", "ACK_WAIT: 0.0 should be greater than 0"),
        ("backoff", "", "BACKOFF: () should have at least 1 item"),
        ("backoff", "1s,later", "BACKOFF: 'later' is not a duration"),
        ("worker_port", "65536", "WORKER_PORT: '65536' should be less than or equal to 65535"),
        ("unhandled", "drop", "UNHANDLED: 'drop' should be 'ack' or 'dead_letter'"),
        ("future_schema", "ack", "FUTURE_SCHEMA: 'ack' should be 'handle' or 'dead_letter'"),
        ("log_level", "loud", "LOG_LEVEL: 'LOUD' should be 'DEBUG'"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it_and_the_rule(
    make_settings: MakeSettings, name: str, value: str, said: str
) -> None:
    (fault,) = _faults(make_settings, **{name: value})

    assert said in fault
    assert "\n" not in fault


def test_a_name_may_have_255_characters(make_settings: MakeSettings) -> None:
    assert len(make_settings(nats_env="x" * 255, nats_stream="mine").nats_env) == 255


def test_a_name_that_is_not_set_is_a_fault(tmp_path: Path) -> None:
    class WithoutFile(Settings):
        model_config = SettingsConfigDict(toml_file=tmp_path / "none.toml")

    with pytest.raises(InvalidSettings) as caught:
        read_settings(WithoutFile, _env_file=None, destination_app="billing")
    assert caught.value.faults == [
        "APP_NAME: it is not set; write this service's name on the wire, like orders-service",
        "DATABASE_URL: it is not set; write postgresql+asyncpg://user:password@host:5432/name or "
        "sqlite+aiosqlite:///file",
    ]


def test_every_fault_is_found_at_once(make_settings: MakeSettings) -> None:
    faults = _faults(
        make_settings,
        destination_app="orders",
        max_deliver="none",
        nats_max_age="1s",
        database_url="oracle://h/db",
    )

    assert [fault.partition(":")[0] for fault in faults] == [
        "DESTINATION_APP",
        "NATS_DUPLICATE_WINDOW",
        "DATABASE_URL",
        "MAX_DELIVER",
    ]


def test_two_ways_to_log_in_are_refused(make_settings: MakeSettings, tmp_path: Path) -> None:
    credentials = tmp_path / "user.creds"
    credentials.touch()
    (fault,) = _faults(make_settings, nats_token="t", nats_creds_file=str(credentials))

    assert fault == "NATS_CREDS_FILE: NATS_TOKEN is set too; keep one way to log in"


def test_a_certificate_needs_its_key(make_settings: MakeSettings, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.touch()
    (fault,) = _faults(make_settings, nats_tls_cert=str(certificate))

    assert fault.startswith("NATS_TLS_KEY: NATS_TLS_CERT and NATS_TLS_KEY need each other")


def test_no_secret_shows(make_settings: MakeSettings) -> None:
    settings = make_settings(
        nats_urls="nats://me:hunter2@host:4222",
        nats_user="me",
        nats_password="hunter2",
        admin_token="hunter2",
        database_url="postgresql+asyncpg://me:hunter2@host/db",
    )

    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()}"
    assert bridge_config(settings).connection.password == "hunter2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nats_urls", "http://me:hunter2@host"),
        ("nats_urls", "me:hunter2@host"),
        ("nats_urls", "nats://me:hunter2@host:port"),
        ("database_url", "mysql://me:hunter2@host/db"),
        ("database_url", "postgresql+asyncpg://me:hunter2@host:port/db"),
        ("database_url", "me:hunter2@host"),
    ],
)
def test_no_secret_shows_in_a_fault(make_settings: MakeSettings, name: str, value: str) -> None:
    assert "hunter2" not in "".join(_faults(make_settings, **{name: value}))


# Whatever a password has in it: some of these cannot be read, the others are shown without it.
@pytest.mark.parametrize("odd", [*"/, @:?#[]%&", "@x/", "/1:"])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("nats_urls", "nats://me:{}@host:4222"),
        ("nats_urls", "nats://{}@host:4222"),
        ("nats_urls", "nats://me:{}@"),
        ("nats_urls", "http://me:{}@host"),
        ("nats_urls", "me:{}@host:4222"),
        ("nats_urls", "nats://a,tls://me:{}@host:0"),
        ("database_url", "postgresql+asyncpg://me:{}@host/db"),
        ("database_url", "postgresql+asyncpg://me:{}@host"),
        ("database_url", "postgresql+asyncpg://me:{}@host:port/db"),
        ("database_url", "postgresql+asyncpg://{}:me@host/db"),
        ("database_url", "postgres://me:{}@host/db"),
        ("database_url", "mysql://me:{}@host/db"),
        ("database_url", "sqlite+aiosqlite://me:{}@host/db"),
        ("database_url", "me:{}@host/db"),
    ],
)
def test_no_part_of_a_password_shows_wherever_it_may_be_cut(
    make_settings: MakeSettings, name: str, form: str, odd: str
) -> None:
    value = form.format(f"hunter2{odd}hunter3")
    try:
        settings = make_settings(**{name: value})
    except InvalidSettings as error:
        error.__suppress_context__ = False  # whoever logs it may show all of its chain
        shown = "".join(traceback.format_exception(error))
    else:
        connection = Connection(bridge_config(settings).connection, name="orders")
        database = parse_database_address(settings.database_url.get_secret_value())
        shown = f"{connection.addresses} {database} {settings!r}"
    assert "hunter" not in shown


@pytest.mark.parametrize(
    ("address", "password"),
    [
        ("postgresql+asyncpg://me:p/w@host/db", "p/w"),
        ("postgresql+asyncpg://me:p%40w@host/d%40b", "p@w"),
        ("postgresql+asyncpg://me@host:p w,x@host.example/db", "p w,x"),
    ],
)
def test_an_odd_password_that_can_be_read_is_taken(address: str, password: str) -> None:
    assert parse_database_address(address).url.password == password


def test_the_chain_of_a_refused_address_holds_nothing_of_it() -> None:
    with pytest.raises(ValueError, match="not shown") as caught:
        parse_database_address("postgresql+asyncpg://me:hunter2@host:port/db")
    assert caught.value.__context__ is None


_LONG_BACKOFF = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)


@pytest.mark.parametrize(
    ("preset", "outbox", "inbox", "dlq", "max_deliver", "ack_wait", "backoff"),
    [
        ("development", False, False, False, 3, 10.0, (1.0, 2.0, 5.0)),
        ("test", False, False, False, 2, 5.0, (0.1, 0.5)),
        ("staging", True, True, True, 3, 15.0, (1.0, 5.0, 15.0)),
        ("production", True, True, True, 5, 30.0, (1.0, 5.0, 15.0, 30.0, 60.0)),
        ("high_throughput", False, False, True, 3, 10.0, (1.0, 2.0, 5.0)),
        ("maximum_reliability", True, True, True, 10, 60.0, _LONG_BACKOFF),
    ],
)
def test_a_preset_gives_these_defaults_and_no_others(
    make_settings: MakeSettings,
    preset: str,
    outbox: bool,
    inbox: bool,
    dlq: bool,
    max_deliver: int,
    ack_wait: float,
    backoff: tuple[float, ...],
) -> None:
    settings = make_settings(preset=preset)

    assert (settings.use_outbox, settings.use_inbox, settings.use_dlq) == (outbox, inbox, dlq)
    assert (settings.max_deliver, settings.ack_wait) == (max_deliver, ack_wait)
    assert settings.backoff == backoff
    theirs = {*PRESETS[preset], "preset"}  # type: ignore[index]
    without = make_settings()
    assert settings.model_dump(exclude=theirs) == without.model_dump(exclude=theirs)


def test_every_preset_of_the_list_is_tested() -> None:
    (marker,) = test_a_preset_gives_these_defaults_and_no_others.pytestmark  # type: ignore[attr-defined]
    assert [case[0] for case in marker.args[1]] == list(PRESETS)


def test_a_setting_given_by_name_anywhere_wins_over_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the preset itself stands: here in the environment, above all the others."""
    service_file, env_file = tmp_path / "service.toml", tmp_path / ".env"
    service_file.write_text(
        'app_name = "orders"\ndestination_app = "billing"\nuse_inbox = false\nack_wait = "1m"\n'
        'database_url = "sqlite+aiosqlite:///x.db"\n'
    )
    env_file.write_text("PRESET=test\nUSE_DLQ=false\nACK_WAIT=2m\n")
    monkeypatch.setenv("PRESET", "maximum_reliability")
    monkeypatch.setenv("MAX_DELIVER", "7")

    class FromFiles(Settings):
        model_config = SettingsConfigDict(toml_file=service_file, env_file=env_file)

    settings = read_settings(FromFiles)

    assert settings.preset == "maximum_reliability", "the environment's, not that of .env"
    assert settings.max_deliver == 7, "given in the environment"
    assert settings.use_dlq is False, "given in .env"
    assert settings.use_inbox is False, "given in service.toml"
    assert settings.ack_wait == 120.0, ".env wins over service.toml"
    assert settings.backoff == _LONG_BACKOFF, "given nowhere: the preset's"


def test_a_preset_in_the_service_file_is_used_too(tmp_path: Path) -> None:
    service_file = tmp_path / "service.toml"
    service_file.write_text(
        'app_name = "orders"\ndestination_app = "billing"\npreset = "staging"\n'
        'database_url = "sqlite+aiosqlite:///x.db"\n'
    )

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=service_file)

    assert read_settings(FromFile, _env_file=None).ack_wait == 15.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nats_duplicate_window": "1s"}, "raise it to 20s or more"),
        ({"inbox_retention": "60s"}, "for 261s (MAX_DELIVER 5 x ACK_WAIT 30s + BACKOFF 111s)"),
        ({"ack_wait": "1500ms"}, "reports every 500ms (a third)"),
        ({"max_deliver": 3}, "BACKOFF has 5 entries, but MAX_DELIVER is 3: the last 2 are"),
        ({"nats_retention": "limits"}, "grows without end; set NATS_MAX_AGE"),
        ({"gem_peer": True, "use_inbox": False}, "set USE_INBOX=true"),
        ({"admin_token": "secret"}, "ADMIN_TOKEN has 6 characters"),
    ],
)
def test_what_is_likely_not_meant_is_said_with_its_arithmetic(
    make_settings: MakeSettings, values: dict[str, object], said: str
) -> None:
    (warning,) = configuration_warnings(make_settings(**values))

    assert said in warning


def test_everything_the_bridge_needs_reaches_it(make_settings: MakeSettings) -> None:
    config = bridge_config(
        make_settings(
            nats_urls="nats://a,nats://b",
            nats_stream="mine",
            nats_max_age="7d",
            ack_wait="1m",
            backoff="250ms,2s",
            unhandled="dead_letter",
            future_schema="dead_letter",
        )
    )

    assert config.connection.urls == ("nats://a", "nats://b")
    assert config.stream == "mine"
    assert (config.max_age, config.ack_wait, config.backoff) == (604_800.0, 60.0, (0.25, 2.0))
    assert (config.unhandled, config.future_schema) == ("dead_letter", "dead_letter")


@pytest.mark.real
def test_bad_settings_stop_the_process_with_status_2_and_one_line_each(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": import_path(),
        "APP_NAME": "a b",
        "DESTINATION_APP": "billing",
        "MAX_DELIVER": "0",
        "DATABASE_URL": "sqlite+aiosqlite:///x.db",
    }
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import app.settings, jetstream_bridge.service as package;"
            "package.load_settings(app.settings.Settings)",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert result.returncode == 2
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "APP_NAME",
        "MAX_DELIVER",
    ]
