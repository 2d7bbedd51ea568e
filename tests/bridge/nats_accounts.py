"""What a server's operator hands out: keys, credentials files and certificates, made for a test."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import nkeys  # type: ignore[import-untyped]
import trustme

from jetstream_bridge.topology.permissions import Permissions

_UNLIMITED = dict.fromkeys(
    ("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1
) | dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


@dataclass(frozen=True)
class Key:
    """An nkey: its public name and its seed."""

    public: str
    seed: str


def new_key(prefix: int = nkeys.PREFIX_BYTE_USER) -> Key:
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return Key(public=nkeys.from_seed(seed).public_key.decode(), seed=seed.decode())


class Operator:
    """Signs for one account, which may use JetStream, and its users."""

    def __init__(self) -> None:
        self._key = new_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = new_key(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def server_config(self) -> str:
        """The configuration of a server that trusts this operator and nobody else."""
        operator = _jwt(self._key, self._key.public, "operator", {"type": "operator"})
        limits = {self._account: _UNLIMITED, self._system: {}}
        accounts = [
            f"{key.public}: {_jwt(self._key, key.public, 'account', _account_claims(of))}"
            for key, of in limits.items()
        ]
        return (
            f"operator: {operator}\nresolver: MEMORY\nsystem_account: {self._system.public}\n"
            f"resolver_preload: {{ {', '.join(accounts)} }}"
        )

    def credentials(
        self, *, rights: Permissions | None = None, expires_in: float | None = None
    ) -> str:
        """The credentials file of a new user; without `rights` it may do everything.

        `expires_in` is in seconds.
        """
        user = new_key()
        claims: dict[str, object] = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        if rights is not None:
            claims["pub"] = {"allow": [right.subject for right in rights.publish]}
            claims["sub"] = {"allow": [right.subject for right in rights.subscribe]}
        user_jwt = _jwt(self._account, user.public, "user", claims, expires_in=expires_in)
        return (
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


def _account_claims(limits: dict[str, int]) -> dict[str, object]:
    return {"type": "account", **({"limits": limits} if limits else {})}


def _jwt(
    issuer: Key,
    subject: str,
    name: str,
    nats: dict[str, object],
    *,
    expires_in: float | None = None,
) -> str:
    claims: dict[str, object] = {
        "iat": int(time.time()),
        "iss": issuer.public,
        "sub": subject,
        "name": name,
        "nats": {"version": 2, **nats},
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


def make_certificates(folder: Path, *hosts: str) -> Certificates:
    """Make them for a server on `hosts`; without any, on this machine."""
    authority = trustme.CA()
    made = Certificates(
        authority=folder / "ca.pem",
        server=folder / "server.pem",
        server_key=folder / "server-key.pem",
        client=folder / "client.pem",
        client_key=folder / "client-key.pem",
    )
    authority.cert_pem.write_to_path(made.authority)
    server = authority.issue_cert(*(hosts or ("localhost", "127.0.0.1")))
    server.cert_chain_pems[0].write_to_path(made.server)
    server.private_key_pem.write_to_path(made.server_key)
    client = authority.issue_cert("orders@example.org")
    client.cert_chain_pems[0].write_to_path(made.client)
    client.private_key_pem.write_to_path(made.client_key)
    return made
