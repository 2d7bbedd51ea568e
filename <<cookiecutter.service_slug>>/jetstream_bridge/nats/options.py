"""The connection settings, checked and turned into what nats-py's `connect` takes.

Secrets leave this module in two ways only: inside the arguments for nats-py, and blotted out of
a text by `mask`. Addresses carry none: what stands before an `@` is taken out of them.

Files (credentials, keys, certificates) are read again for every new client, so that rotated ones
come into force; their contents are checked here because nats-py spins for ever on a credentials
file without a JWT in it.
"""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nats.aio.client import RawCredentials

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.errors import ConfigurationError

# Spelling of the setting -> nats-py's; the default port.
_SCHEMES = {
    "nats": ("nats", 4222),
    "tls": ("tls", 4222),
    "nats+tls": ("tls", 4222),
    "ws": ("ws", 80),
    "wss": ("wss", 443),
}
# All of an address or nothing: what is left over may be a piece of a password.
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z+]*)://"
    r"(?:(?P<login>[^/?#\x00-\x1f\x7f]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/?#@:,\[\]]+)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^\s@?#]*)?(?:\?[^\s@#]*)?"
)
_RULE = "write it like nats://host:4222, with one of nats, tls, nats+tls, ws and wss"
_USERINFO = re.compile(r"//[^/\s@]*(?:@[^/\s@]*)*@")
_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(?P<jwt>[\w.-]+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(?P<seed>\w+)\s+-+END USER NKEY SEED-+")


@dataclass(frozen=True)
class ServerAddress:
    """One entry of NATS_URLS, taken apart."""

    scheme: str
    host: str
    port: int
    path: str = ""
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_addresses(urls: Sequence[str]) -> list[ServerAddress]:
    """Take server URLs apart; raise `ValueError` for the first that is none, and say which."""
    alone = len(urls) == 1
    return [
        _parse(url.strip(), "the address" if alone else f"address {number} of {len(urls)}")
        for number, url in enumerate(urls, start=1)
    ]


def _parse(url: str, which: str) -> ServerAddress:
    parts = _ADDRESS.fullmatch(url)
    if parts is None or not 0 < int(parts["port"] or 1) < 65536:
        raise ValueError(f"{which} (not shown) {_unreadable(url)}; {_RULE}")
    if parts["scheme"].lower() not in _SCHEMES:
        shown = f"{parts['scheme']}://{parts['host']}"
        raise ValueError(f"{which}, {shown!r}, has a scheme that is not known; {_RULE}")
    scheme, default_port = _SCHEMES[parts["scheme"].lower()]
    user, _, password = (parts["login"] or "").partition(":")
    return ServerAddress(
        scheme=scheme,
        host=parts["host"].strip("[]"),
        port=int(parts["port"] or default_port),
        path=(parts["path"] or "") if scheme in ("ws", "wss") else "",
        user=unquote(user) or None,
        password=unquote(password) or None,
    )


def _addresses(urls: Sequence[str]) -> list[ServerAddress]:
    try:
        return parse_addresses(urls)
    except ValueError as error:
        raise ConfigurationError(f"NATS_URLS: {error}") from None


def _unreadable(url: str) -> str:
    """What is wrong with an address, in words that hold no part of it."""
    if "://" not in url:
        return "has no scheme"
    return (
        "has no usable host or port; in its login write special characters as their codes, "
        "%2F for /, %40 for @, %2C for a comma"
    )


class NatsOptions:
    """The checked settings of one connection."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self.addresses = _addresses(options.urls)
        self._check_schemes()
        self._check_login()
        self._secrets = [
            secret
            for secret in (options.password, options.token, *self._login_of_addresses())
            if secret
        ]

    @property
    def tls_demanded(self) -> bool:
        """Whether a server that speaks plaintext must be refused.

        One `tls://` among the addresses asks it of all: which one is used is left to chance. With
        `wss://` the socket is encrypted before the server says a word.
        """
        schemes = {address.scheme for address in self.addresses}
        wanted = "tls" in schemes or self._options.tls_ca or self._options.tls_cert
        return bool(wanted) and "wss" not in schemes

    def arguments(self) -> dict[str, Any]:
        """What `Client.connect` gets; reads the files, raises `ConfigurationError` naming one."""
        arguments: dict[str, Any] = {"servers": [str(address) for address in self.addresses]}
        arguments.update(self._login())
        if self.tls_demanded or any(address.scheme == "wss" for address in self.addresses):
            arguments["tls"] = self._tls_context()
        return arguments

    def mask(self, text: str) -> str:
        """Return `text` without any secret of this connection."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _USERINFO.sub("//***@", text)

    def describe(self, error: BaseException) -> str:
        """Say what went wrong, for a person: never empty, without secrets."""
        return self.mask(_text(error))

    def _check_schemes(self) -> None:
        if not self.addresses:
            raise ConfigurationError("NATS_URLS is empty; write at least one, nats://host:4222")
        schemes = {address.scheme for address in self.addresses}
        if schemes & {"ws", "wss"}:
            if schemes - {"ws", "wss"}:
                mixed = ", ".join(sorted(schemes))
                raise ConfigurationError(
                    f"NATS_URLS mixes WebSocket and other addresses ({mixed}); use one kind"
                )
            if importlib.util.find_spec("aiohttp") is None:
                raise ConfigurationError(
                    "NATS_URLS has a WebSocket address, which needs aiohttp; "
                    "install it with `pip install aiohttp`"
                )
        if "ws" in schemes and (self._options.tls_ca or self._options.tls_cert):
            raise ConfigurationError(
                "NATS_URLS has a ws:// address, which is plaintext, beside NATS_TLS_CA or "
                "NATS_TLS_CERT; write wss://"
            )

    def _check_login(self) -> None:
        options = self._options
        if (options.user is None) != (options.password is None):
            raise ConfigurationError("NATS_USER and NATS_PASSWORD go together; set both or none")
        if options.creds_file and options.nkey_file:
            raise ConfigurationError("NATS_CREDS_FILE and NATS_NKEY_FILE are both set; keep one")
        if options.user and (options.creds_file or options.nkey_file or options.token):
            raise ConfigurationError(
                "NATS_USER is set beside NATS_TOKEN, NATS_CREDS_FILE or NATS_NKEY_FILE; keep one"
            )
        if options.tls_key and not options.tls_cert:
            raise ConfigurationError("NATS_TLS_KEY is set without NATS_TLS_CERT; set both")
        if len({(a.user, a.password) for a in self.addresses if a.user}) > 1:
            raise ConfigurationError(
                "NATS_URLS has addresses with different users; use one for all servers"
            )
        needs_nkeys = options.creds_file or options.nkey_file
        if needs_nkeys and importlib.util.find_spec("nkeys") is None:
            raise ConfigurationError(
                "NATS_CREDS_FILE and NATS_NKEY_FILE need nkeys; "
                "install it with `pip install 'nats-py[nkeys]'`"
            )

    def _login_of_addresses(self) -> tuple[str | None, str | None]:
        for address in self.addresses:
            if address.user:
                return address.user, address.password
        return None, None

    def _login(self) -> dict[str, Any]:
        options = self._options
        login: dict[str, Any] = {}
        if options.token:
            login["token"] = options.token
        if options.creds_file:
            login["user_credentials"] = _read_credentials(options.creds_file)
        elif options.nkey_file:
            login["nkeys_seed_str"] = _read("NATS_NKEY_FILE", options.nkey_file).strip()
        elif options.user:
            login.update(user=options.user, password=options.password)
        elif not login:
            user, password = self._login_of_addresses()
            if user and password:
                login.update(user=user, password=password)
            elif user:
                login["token"] = user
        return login

    def _tls_context(self) -> ssl.SSLContext:
        options = self._options
        try:
            context = ssl.create_default_context(cafile=options.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"NATS_TLS_CA {options.tls_ca!r} cannot be used: {error}; name a PEM file"
            ) from error
        if options.tls_cert:
            try:
                context.load_cert_chain(options.tls_cert, options.tls_key)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"NATS_TLS_CERT {options.tls_cert!r} with NATS_TLS_KEY {options.tls_key!r} "
                    f"cannot be used: {error}; name PEM files that belong together"
                ) from error
        return context


def _read(name: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name} {path!r} cannot be read: {error}") from error


def _read_credentials(path: str) -> RawCredentials:
    text = _read("NATS_CREDS_FILE", path)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        missing = "JWT" if jwt is None else "key seed"
        raise ConfigurationError(
            f"NATS_CREDS_FILE {path!r} holds no user {missing}; name a file as `nsc` writes it"
        )
    return RawCredentials(
        f"-----BEGIN NATS USER JWT-----\n{jwt['jwt']}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed['seed']}\n------END USER NKEY SEED------\n"
    )


def _text(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}; see NATS_TLS_CA"
    if "authorization violation" in text.lower():
        return "NATS refuses the login (authorization violation); check its user or token"
    if "authentication expired" in text.lower():
        return "the credentials have expired (user authentication expired); renew NATS_CREDS_FILE"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    return text.removeprefix("nats: ")
