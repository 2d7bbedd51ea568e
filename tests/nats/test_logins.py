"""Logging in in every way that NATS knows, over TLS too; and what is said when it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jetstream_bridge.core.errors import NotConnectedError, PermissionDeniedError
from jetstream_bridge.testing.servers import NatsServer
from jetstream_bridge.topology.permissions import Permissions, Right
from tests.bridge.connections import CONNECTED, DISCONNECTED, REPLACED, connected
from tests.bridge.nats_accounts import Certificates, Operator, make_certificates, new_key
from tests.waiting import eventually

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Login:
    """A server that knows one user, the options that let it in, and some that do not."""

    config: str
    right: dict[str, Any]
    wrong: dict[str, Any]
    secret: str  # of the wrong ones
    url: str = ""


def by_password(folder: Path) -> Login:
    config = "authorization { users: [{ user: api, password: right }] }"
    right = {"user": "api", "password": "right"}
    return Login(config, right, {**right, "password": "top-s3cret"}, "top-s3cret")


def by_token(folder: Path) -> Login:
    config = "authorization { token: a-long-token }"
    return Login(config, {"token": "a-long-token"}, {"token": "another-token"}, "another-token")


def by_nkey(folder: Path) -> Login:
    known, unknown = new_key(), new_key()
    (folder / "known.nk").write_text(known.seed + "\n")
    (folder / "unknown.nk").write_text(unknown.seed + "\n")
    return Login(
        f"authorization {{ users: [{{ nkey: {known.public} }}] }}",
        {"nkey_file": str(folder / "known.nk")},
        {"nkey_file": str(folder / "unknown.nk")},
        unknown.seed,
    )


def by_credentials(folder: Path) -> Login:
    operator, stranger = Operator(), Operator()
    (folder / "known.creds").write_text(operator.credentials())
    (folder / "unknown.creds").write_text(unknown := stranger.credentials())
    return Login(
        operator.server_config,
        {"creds_file": str(folder / "known.creds")},
        {"creds_file": str(folder / "unknown.creds")},
        unknown.split("SEED-----\n")[1].split("\n")[0],
    )


@pytest.fixture(params=[by_password, by_token, by_nkey, by_credentials])
def login(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Login]:
    login: Login = request.param(tmp_path)
    with NatsServer(config=login.config) as server:
        yield replace(login, url=server.url)


async def test_the_right_login_is_let_in_and_uses_jetstream(login: Login) -> None:
    async with connected(login.url, **login.right) as watched:
        answer = await watched.connection.request("$JS.API.INFO", timeout=10)
        assert b'"error"' not in answer.data


async def test_a_wrong_login_is_told_without_the_secret(
    login: Login, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected(login.url, wait=False, **login.wrong) as watched:
        await eventually(lambda: watched.connection.error is not None)
        with pytest.raises(NotConnectedError) as raised:
            await watched.connection.wait_connected(0.2)
        assert "NATS refuses the login (authorization violation)" in str(raised.value)
        told = f"{raised.value} {watched.connection.error} {watched.connection.addresses}"
        assert login.secret not in told
    assert login.secret not in caplog.text


async def test_without_any_login_it_is_refused(login: Login) -> None:
    async with connected(login.url, wait=False) as watched:
        await eventually(lambda: "authorization violation" in (watched.connection.error or ""))


# --- in an address


async def test_user_and_password_in_an_address_may_have_escapes() -> None:
    config = 'authorization { users: [{ user: api, password: "p@ss:w/rd" }] }'
    with NatsServer(config=config) as server:
        async with connected(server.url.replace("//", "//api:p%40ss%3Aw%2Frd@")):
            pass


async def test_a_token_in_an_address_logs_in() -> None:
    with NatsServer(config="authorization { token: a-long-token }") as server:
        async with connected(server.url.replace("//", "//a-long-token@")):
            pass


async def test_a_wrong_password_in_an_address_is_never_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    config = "authorization { users: [{ user: api, password: right }] }"
    with NatsServer(config=config) as server:
        url = server.url.replace("//", "//api:top-s3cret@")
        async with connected(url, wait=False) as watched:
            await eventually(lambda: "authorization" in (watched.connection.error or ""))
            assert "top-s3cret" not in (watched.connection.error or "")
            assert "top-s3cret" not in str(watched.connection.addresses)
    assert "top-s3cret" not in caplog.text


# --- credentials files


async def test_a_credentials_file_that_expires_is_read_anew_while_all_goes_on(
    tmp_path: Path,
) -> None:
    operator = Operator()
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials(expires_in=2))
    with NatsServer(config=operator.server_config) as server:
        async with connected(server.url, creds_file=str(file)) as watched:
            refused = ("NATS refuses the login", "credentials have expired")
            await eventually(lambda: (watched.connection.error or "").startswith(refused))
            file.write_text(operator.credentials())
            client = await watched.connection.wait_connected(20)
            assert watched.events[:2] == [CONNECTED, DISCONNECTED]
            assert watched.events[-1] is REPLACED
            await watched.connection.request("$JS.API.INFO", timeout=10)
            assert watched.connection.client is client


async def test_the_rights_of_a_credentials_file_are_those_of_its_token(tmp_path: Path) -> None:
    operator = Operator()
    rights = Permissions("t", (Right("$JS.API.INFO", ""),), (Right("_INBOX_orders.>", ""),))
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials(rights=rights))
    with NatsServer(config=operator.server_config) as server:
        options: dict[str, Any] = {"creds_file": str(file), "inbox_prefix": "_INBOX_orders"}
        async with connected(server.url, **options) as watched:
            await watched.connection.request("$JS.API.INFO", timeout=10)
            with pytest.raises(PermissionDeniedError, match=r"\$JS\.API\.STREAM\.NAMES"):
                await watched.connection.request("$JS.API.STREAM.NAMES", timeout=10)


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("others"))


def tls_url(server: NatsServer, scheme: str = "tls") -> str:
    return server.url.replace("nats://", f"{scheme}://")


async def test_tls_connects_with_its_authority_and_reconnects(certificates: Certificates) -> None:
    with NatsServer(config=certificates.server_config()) as server:
        async with connected(tls_url(server), tls_ca=str(certificates.authority)) as watched:
            server.restart()
            await eventually(lambda: watched.events == [CONNECTED, DISCONNECTED, CONNECTED])


async def test_tls_with_a_client_certificate(certificates: Certificates) -> None:
    with NatsServer(config=certificates.server_config(verify_clients=True)) as server:
        options: dict[str, Any] = {"tls_ca": str(certificates.authority)}
        url = tls_url(server, "nats+tls")
        async with connected(url, wait=False, **options) as watched:
            await eventually(lambda: watched.connection.error is not None)
            assert not watched.connection.connected
        options |= {"tls_cert": str(certificates.client), "tls_key": str(certificates.client_key)}
        async with connected(url, **options):
            pass


async def test_a_client_certificate_can_be_the_login(certificates: Certificates) -> None:
    verify = f'ca_file: "{certificates.authority}", verify_and_map: true'
    files = f'cert_file: "{certificates.server}", key_file: "{certificates.server_key}"'
    users = 'authorization { users: [{ user: "orders@example.org" }] }'
    with NatsServer(config=f"tls {{ {files}, {verify} }}\n{users}") as server:
        options: dict[str, Any] = {
            "tls_ca": str(certificates.authority),
            "tls_cert": str(certificates.client),
            "tls_key": str(certificates.client_key),
        }
        async with connected(tls_url(server), **options) as watched:
            await watched.connection.request("$JS.API.INFO", timeout=10)


@pytest.mark.parametrize("authority", ["another", "the system's"])
async def test_an_untrusted_certificate_is_told_and_hangs_nothing(
    certificates: Certificates, other_certificates: Certificates, authority: str
) -> None:
    other = {"tls_ca": str(other_certificates.authority)}
    options: dict[str, Any] = other if authority == "another" else {}
    with NatsServer(config=certificates.server_config()) as server:
        async with connected(tls_url(server), wait=False, **options) as watched:
            await eventually(lambda: "not trusted" in (watched.connection.error or ""))
            assert "see NATS_TLS_CA" in (watched.connection.error or "")
            began = time.monotonic()
            await watched.connection.close(timeout=2)
            assert time.monotonic() - began < 6


async def test_a_certificate_for_another_host_is_told(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, "elsewhere.example.org")
    with NatsServer(config=certificates.server_config()) as server:
        options: dict[str, Any] = {"tls_ca": str(certificates.authority)}
        async with connected(tls_url(server), wait=False, **options) as watched:
            await eventually(lambda: "not trusted" in (watched.connection.error or ""))
            assert "127.0.0.1" in (watched.connection.error or "")


@pytest.mark.parametrize("how", ["scheme", "authority"])
async def test_a_plaintext_server_is_refused_before_the_login_is_sent(
    certificates: Certificates, how: str
) -> None:
    heard = bytearray()

    async def plaintext(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n')
        with contextlib.suppress(OSError):
            heard.extend(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(plaintext, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scheme = "tls" if how == "scheme" else "nats"
    options: dict[str, Any] = {"user": "api", "password": "right"}
    if how == "authority":
        options["tls_ca"] = str(certificates.authority)
    url = f"{scheme}://127.0.0.1:{port}"
    async with server, connected(url, wait=False, **options) as watched:
        await eventually(lambda: "does not offer TLS" in (watched.connection.error or ""))
        assert not watched.connection.connected
    assert bytes(heard) == b""
