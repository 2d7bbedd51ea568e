"""Who is logged in: said by a signed cookie, so that every replica knows it and none stores it.

The key is made from ADMIN_TOKEN. A changed token ends every session, and nothing else does before
its time: logging out makes one browser forget its cookie.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from itsdangerous import BadSignature, Signer, TimestampSigner, URLSafeSerializer
from pydantic import SecretStr

LIFETIME = 12 * 3600  # seconds
# Seconds by which the clocks of two replicas may differ: a session from the future is refused.
_SKEW = 60
_SIGNED: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


@dataclass(frozen=True, slots=True)
class Session:
    """One login. `csrf` is what every form of it carries."""

    id: str
    csrf: str


class Sessions:
    """Begins and reads the sessions of one service."""

    def __init__(
        self, token: SecretStr, *, service: str, now: Callable[[], float] = time.time
    ) -> None:
        self._token = token.get_secret_value().encode()
        self._service = service
        self._now = now

    @property
    def cookie(self) -> str:
        """The cookie's name. Browsers keep one jar for all ports of a host, hence the service."""
        return f"{self._service}-console"

    @property
    def notice_cookie(self) -> str:
        return f"{self._service}-console-notice"

    def opens(self, given: str) -> bool:
        """Say whether `given` is the token, in the same time whatever it is."""
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token)

    def begin(self) -> str:
        """Return the cookie of a new session."""
        signer = _Timed(self._key, self._now, behind=_SKEW)
        return signer.sign(secrets.token_urlsafe(16)).decode()

    def read(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie that is ours and not too old."""
        if not cookie:
            return None
        signer = _Timed(self._key, self._now)
        try:
            name = signer.unsign(cookie.encode("latin-1", "replace"), max_age=LIFETIME + _SKEW)
        except BadSignature:
            return None
        csrf = Signer(self._key, salt="console-csrf", **_SIGNED).get_signature(name)
        return Session(name.decode(), csrf.decode())

    @property
    def notices(self) -> URLSafeSerializer:
        """Signs what one page has to say on the next."""
        return URLSafeSerializer(self._key, salt="console-notice", signer_kwargs=_SIGNED)

    @cached_property
    def _key(self) -> bytes:
        return _derived(self._token, self._service)


class _Timed(TimestampSigner):
    """Signs by a given clock, `behind` seconds late."""

    def __init__(self, key: bytes, now: Callable[[], float], *, behind: int = 0) -> None:
        super().__init__(key, salt="console-session", **_SIGNED)
        self._now = now
        self._behind = behind

    def get_timestamp(self) -> int:
        return int(self._now()) - self._behind


@lru_cache(maxsize=8)
def _derived(token: bytes, service: str) -> bytes:
    """Make the key slowly, so that a cookie is of little help in guessing a short token."""
    salt = b"console:" + service.encode()
    return hashlib.scrypt(token, salt=salt, n=2**14, r=8, p=1, dklen=32)
