"""The connection settings: what contradicts itself or cannot be used is refused by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.core.limits import Timing
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.options import NatsOptions


def test_the_pauses_between_tries_grow_to_a_cap_and_differ() -> None:
    timing = Timing()
    delays = [timing.delay(attempt) for attempt in range(100)]
    assert max(delays[:3]) < 0.3
    assert max(delays) <= 5
    assert min(delays[20:]) >= 2.5
    assert len(set(delays)) == len(delays)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("localhost:4222", "scheme"),
        ("http://localhost:4222", "scheme"),
        ("nats://", "host"),
        ("nats://host:port", "address"),
        ("nats://host:99999", "address"),
        ("", "scheme"),
        ("nats://me:hidden@", "host"),
    ],
)
def test_a_bad_address_is_refused_by_name_and_without_its_password(url: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as raised:
        Connection(ConnectionOptions(urls=(url,)), name="orders")
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"user": "api"}, "NATS_PASSWORD"),
        ({"password": "x"}, "NATS_USER"),
        ({"creds_file": "a", "nkey_file": "b"}, "keep one"),
        ({"user": "a", "password": "b", "token": "c"}, "keep one"),
        ({"tls_key": "a"}, "NATS_TLS_CERT"),
        ({"urls": ()}, "NATS_URLS is empty"),
        ({"urls": ("nats://a:b@one", "nats://c:d@two")}, "different users"),
        ({"urls": ("nats://one", "ws://two")}, "mixes"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        Connection(ConnectionOptions(**options), name="orders")


@pytest.mark.parametrize(
    ("setting", "content", "fault"),
    [
        ("creds_file", None, "cannot be read"),
        ("creds_file", "nothing of use", "no user JWT"),
        ("nkey_file", None, "cannot be read"),
        ("tls_ca", None, "NATS_TLS_CA"),
        ("tls_ca", "no certificate", "NATS_TLS_CA"),
        ("tls_cert", "no certificate", "NATS_TLS_CERT"),
    ],
)
async def test_a_file_that_is_missing_or_of_no_use_stops_the_start(
    setting: str, content: str | None, fault: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    settings: dict[str, Any] = {setting: str(file)}
    options = ConnectionOptions(urls=("tls://localhost",), **settings)
    with pytest.raises(ConfigurationError, match=fault):
        await Connection(options, name="orders").start()


def test_a_websocket_address_without_aiohttp_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "aiohttp" else find(name)
    )
    with pytest.raises(ConfigurationError, match="pip install aiohttp"):
        Connection(ConnectionOptions(urls=("wss://host/nats",)), name="orders")


def test_addresses_are_normalised_and_carry_no_login() -> None:
    options = NatsOptions(
        ConnectionOptions(
            urls=("nats://api:s%40cret@one", " nats+tls://two:4443 ", "tls://[::1]:4222/x")
        )
    )
    assert [str(address) for address in options.addresses] == [
        "nats://one:4222",
        "tls://two:4443",
        "tls://[::1]:4222",
    ]
    assert options.tls_demanded
    arguments = options.arguments()
    assert (arguments["user"], arguments["password"]) == ("api", "s@cret")
    assert "s@cret" not in str(arguments["servers"])


def test_settings_win_over_an_address() -> None:
    options = NatsOptions(
        ConnectionOptions(urls=("nats://old:gone@one",), user="api", password="right")
    )
    assert options.arguments()["user"] == "api"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("cannot reach nats://a:b@host:4222", "cannot reach nats://***@host:4222"),
        ("cannot reach nats://tok@host", "cannot reach nats://***@host"),
        ("nats://a:p@ss@host", "nats://***@host"),
        ("login as api with s3cret failed", "login as api with *** failed"),
        ("mail me@host", "mail me@host"),
        ("nats://host:4222/a@b", "nats://host:4222/a@b"),
    ],
)
def test_secrets_are_masked_in_any_text(text: str, masked: str) -> None:
    options = NatsOptions(ConnectionOptions(user="api", password="s3cret"))
    assert options.mask(text) == masked


def test_an_error_is_told_in_words() -> None:
    options = NatsOptions(ConnectionOptions())
    assert options.describe(ValueError()) == "ValueError"
    expired = nats.errors.Error("nats: 'User Authentication Expired'")
    assert options.describe(expired).endswith("renew NATS_CREDS_FILE")
    assert options.describe(TimeoutError()) == "the server did not answer in time"
