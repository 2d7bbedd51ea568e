"""What stands behind the `?` of DATABASE_URL, as asyncpg and SQLAlchemy are to be told it.

Clouds hand out addresses for libpq. Each of its parameters is translated, or is as good as absent
at the value given, or is refused by its name: nothing is ignored. A refusal quotes no value that
may be a secret.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "sslmode": _MODES,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    # Events are written, so a server that is only read from is of no use.
    "target_session_attrs": ("any", "primary", "read-write"),
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
# libpq's, at the values at which they change nothing here.
_AS_ABSENT = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "client_encoding": ("utf8", "utf-8", "auto"),
    "load_balance_hosts": ("disable",),
    "keepalives": ("1",),
}
_INSTEAD = {
    "channel_binding": (
        "asyncpg cannot bind a login to its TLS channel; remove it, and write "
        "sslmode=verify-full&sslrootcert=system, which shuts out a man in the middle too"
    ),
    "schema": "write options=-csearch_path%3DNAME",
    "search_path": "write options=-csearch_path%3DNAME",
    "service": "write the address itself",
    "connection_limit": "remove it; WORKER_CONCURRENCY decides how many connections there are",
    "pool_size": "remove it; WORKER_CONCURRENCY decides how many connections there are",
}
_BESIDE_SYSTEM = {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslnegotiation"}
_SHOWN = re.compile(r"[A-Za-z0-9_.-]{1,20}")
_TRUE, _FALSE = ("true", "1", "on", "yes"), ("false", "0", "off", "no")


@dataclass(slots=True)
class Parameters:
    """What the driver is told beside login, host and database."""

    arguments: dict[str, Any] = field(default_factory=dict, repr=False)  # of asyncpg's `connect`
    server_settings: dict[str, str] = field(default_factory=dict)
    login: dict[str, str] = field(default_factory=dict, repr=False)  # as far as it stands here
    pooled: bool = False  # a pooler in transaction mode stands between

    tls: dict[str, str] = field(default_factory=dict, repr=False)  # as libpq calls it

    @property
    def key_password(self) -> str | None:
        return self.tls.get("sslpassword")


def translate(query: Mapping[str, str | tuple[str, ...]]) -> Parameters:
    """Translate all of `query`; raise `ValueError` for what has no counterpart."""
    found = Parameters()
    for name, given in query.items():
        if name in ("host", "port"):
            continue  # SQLAlchemy takes these apart
        if not isinstance(given, str):
            raise ValueError(f"its parameter {_name(name)} is given twice; write it once")
        _translate(found, name, given)
    _settle_tls(found)
    return found


def _translate(found: Parameters, name: str, value: str) -> None:
    if name in _AS_ABSENT:
        if value.lower() not in _AS_ABSENT[name]:
            raise _refused(name)
        return
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{name}: {_value(value)} is not one of {', '.join(_CHOICES[name])}")
    if name in _FILES and not (name == "sslrootcert" and value == "system"):
        _check_file(name, value)
    translation = _TRANSLATIONS.get(name)
    if translation is None:
        raise _refused(name)
    translation(found, name, value)


def _tls(found: Parameters, name: str, value: str) -> None:
    found.tls[name] = value


def _ssl(found: Parameters, _name: str, value: str) -> None:
    """`ssl=`, as SQLAlchemy, and programs in other languages, spell `sslmode=`."""
    mode = "require" if value.lower() in _TRUE else value
    mode = "disable" if mode.lower() in _FALSE else mode
    _translate(found, "sslmode", mode)


def _argument(found: Parameters, name: str, value: str) -> None:
    found.arguments[name] = value


def _login(found: Parameters, name: str, value: str) -> None:
    found.login[{"dbname": "database", "user": "username"}.get(name, name)] = value


def _server(found: Parameters, name: str, value: str) -> None:
    found.server_settings[name] = value


def _fallback_name(found: Parameters, _name: str, value: str) -> None:
    found.server_settings.setdefault("application_name", value)


def _seconds(found: Parameters, name: str, value: str) -> None:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:  # libpq waits for ever at 0, and nothing here does
        raise ValueError(f"{name}: {_value(value)} is not a number of seconds, 1 or more")
    found.arguments[{"connect_timeout": "timeout"}.get(name, name)] = seconds


def _number(found: Parameters, name: str, value: str) -> None:
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{name}: {_value(value)} is not a whole number")
    found.arguments[name] = int(value)


def _pooler(found: Parameters, name: str, value: str) -> None:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(f"{name}: {_value(value)} is neither true nor false")
    found.pooled = value.lower() in _TRUE


_TRANSLATIONS: dict[str, Callable[[Parameters, str, str], None]] = {
    **dict.fromkeys(_CHOICES, _tls),
    **dict.fromkeys(("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword"), _tls),
    "ssl": _ssl,
    **dict.fromkeys(("target_session_attrs", "passfile", "krbsrvname", "gsslib"), _argument),
    **dict.fromkeys(("user", "password", "dbname", "database"), _login),
    **dict.fromkeys(("application_name", "options"), _server),
    "fallback_application_name": _fallback_name,
    **dict.fromkeys(("connect_timeout", "timeout", "command_timeout"), _seconds),
    **dict.fromkeys(("statement_cache_size", "prepared_statement_cache_size"), _number),
    "pgbouncer": _pooler,
}


def _settle_tls(found: Parameters) -> None:
    """Hand TLS over: asyncpg reads the names of libpq, and only in an address of its own."""
    tls, mode = found.tls, found.tls.get("sslmode")
    if ("sslkey" in tls or "sslpassword" in tls) and "sslcert" not in tls:
        raise ValueError("sslkey: it is given without sslcert; write both")
    if tls.get("sslrootcert") == "system":
        if mode not in (None, "verify-full"):
            raise ValueError(f"sslrootcert=system needs sslmode=verify-full, and not {mode}")
        if more := sorted(set(tls) - _BESIDE_SYSTEM):
            raise ValueError(f"{more[0]}: it cannot be used beside sslrootcert=system; remove one")
        found.arguments["ssl"] = _with_trust_of_the_system(tls)
        if tls.get("sslnegotiation") == "direct":
            found.arguments["direct_tls"] = True
    elif tls:
        if mode in ("verify-ca", "verify-full") and not _root_is_known(tls):
            raise ValueError(
                f"sslmode={mode} needs to know whom to trust; add sslrootcert=system (with "
                "verify-full), or sslrootcert= and the path of a PEM file"
            )
        if tls.get("sslnegotiation") == "direct" and mode not in _MODES[3:]:
            raise ValueError("sslnegotiation=direct needs sslmode=require or a stricter one")
        found.arguments["dsn"] = f"postgresql://?{urlencode(tls)}"


def _with_trust_of_the_system(tls: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "sslcert" in tls:
        password = tls.get("sslpassword", "")
        try:
            context.load_cert_chain(tls["sslcert"], tls.get("sslkey"), password=lambda: password)
        except (OSError, ssl.SSLError):
            raise ValueError(
                "sslcert: it and sslkey cannot be used; name PEM files that belong together"
            ) from None
    return context


def _root_is_known(tls: Mapping[str, str]) -> bool:
    """libpq looks into the environment and into the home folder too, and so does asyncpg."""
    if "sslrootcert" in tls or os.environ.get("PGSSLROOTCERT"):
        return True
    try:
        return (Path.home() / ".postgresql" / "root.crt").is_file()
    except RuntimeError:  # no home
        return False


def _check_file(name: str, value: str) -> None:
    if "\n" in value or len(value) > 200 or not Path(value).is_file():
        shown = f"{value!r} is" if re.fullmatch(r"[\w./~ -]*[./][\w./~ -]*", value) else "it names"
        raise ValueError(f"{name}: {shown} no file that this process can see")


def _refused(name: str) -> ValueError:
    instead = _INSTEAD.get(name, "it has no counterpart in asyncpg; remove it")
    return ValueError(f"its parameter {_name(name)} cannot be used: {instead}")


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]{1,40}", name) else "(not shown)"


def _value(value: str) -> str:
    return repr(value) if _SHOWN.fullmatch(value) else "the value (not shown)"
