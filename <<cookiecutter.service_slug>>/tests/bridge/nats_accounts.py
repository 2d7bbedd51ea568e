"""What a server's operator hands out: keys, credentials files and certificates, made for a test."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import nkeys  # type: ignore[import-untyped]
import pytest

_EXTENSIONS = """
subjectAltName=DNS:localhost,IP:127.0.0.1
basicConstraints=CA:FALSE
keyUsage=digitalSignature
extendedKeyUsage=serverAuth,clientAuth
"""


_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test"


@dataclass(frozen=True)
class Key:
    """An nkey: its public name and its seed."""

    public: str
    seed: str


def new_key(prefix: int = nkeys.PREFIX_BYTE_USER) -> Key:
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return Key(public=nkeys.from_seed(seed).public_key.decode(), seed=seed.decode())


def credentials(*, expires_in: float | None = None) -> tuple[str, str]:
    """Return the configuration of a server with an operator, and a user's credentials file.

    `expires_in` is in seconds.
    """
    operator, account = new_key(nkeys.PREFIX_BYTE_OPERATOR), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    operator_jwt = _jwt(operator, operator.public, "operator", {"type": "operator"})
    account_jwt = _jwt(operator, account.public, "account", {"type": "account"})
    config = (
        f"operator: {operator_jwt}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {account_jwt} }}"
    )
    return config, user_credentials(account, expires_in=expires_in)


def user_credentials(account: Key, *, expires_in: float | None = None) -> str:
    user = new_key()
    limits = {"type": "user", "subs": -1, "data": -1, "payload": -1}
    user_jwt = _jwt(account, user.public, "user", limits, expires_in=expires_in)
    return (
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )


def _jwt(
    issuer: Key,
    subject: str,
    name: str,
    nats: dict[str, object],
    *,
    expires_in: float | None = None,
) -> str:
    limits = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1}
    limits |= {"exports": -1}
    claims: dict[str, object] = {
        "iat": int(time.time()),
        "iss": issuer.public,
        "sub": subject,
        "name": name,
        "nats": {"version": 2, **({"limits": limits} if name == "account" else {}), **nats},
    }
    if expires_in is not None:
        claims["exp"] = int(time.time() + expires_in)
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode()
    head = _part({"typ": "JWT", "alg": "ed25519-nkey"})
    body = f"{head}.{_part(claims)}"
    signature = nkeys.from_seed(bytearray(issuer.seed.encode())).sign(body.encode())
    return f"{body}.{_unpadded(signature)}"


def _part(value: dict[str, object]) -> str:
    return _unpadded(json.dumps(value).encode())


def _unpadded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, and a server's and a client's certificate signed by it."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def server_config(self, *, verify_clients: bool = False) -> str:
        verify = f'ca_file: "{self.authority}", verify: true' if verify_clients else ""
        files = f'cert_file: "{self.server}", key_file: "{self.server_key}"'
        return f"tls {{ {files}, {verify} }}"


def make_certificates(folder: Path) -> Certificates:
    """Make them with the openssl command; skip the test where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    _openssl(
        f"req -x509 {_NEW_KEY} -keyout ca-key.pem -out ca.pem -days 2 -addext keyUsage=keyCertSign",
        folder,
    )
    (folder / "extensions").write_text(_EXTENSIONS)
    for name in ("server", "client"):
        _openssl(f"req {_NEW_KEY} -keyout {name}-key.pem -out {name}.csr", folder)
        _openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 "
            f"-out {name}.pem -extfile extensions",
            folder,
        )
    return Certificates(
        authority=folder / "ca.pem",
        server=folder / "server.pem",
        server_key=folder / "server-key.pem",
        client=folder / "client.pem",
        client_key=folder / "client-key.pem",
    )


def _openssl(arguments: str, folder: Path) -> None:
    command = ["openssl", *arguments.split()]
    subprocess.run(command, check=True, capture_output=True, timeout=30, cwd=folder)
