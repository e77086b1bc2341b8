"""How Faust proves who it is to Kafka, and Kafka to it: what `streams.kafka.security` is for librdkafka, for aiokafka.

Owns that translation, and the token that aiokafka asks for. Must not print a secret.
"""

from __future__ import annotations

import asyncio
import ssl
import time

import httpx
from aiokafka.conn import AbstractTokenProvider
from faust import SASLCredentials, SSLCredentials
from faust.auth import OAuthCredentials
from faust.types.auth import CredentialsT

from streams.kafka.config import OAUTH
from streams.settings import SettingError, Settings

# A token is asked for anew when this much of its life is left.
_LEFT = 0.2
_TOKEN_TIMEOUT_S = 10.0


def faust_credentials(settings: Settings) -> CredentialsT | None:
    """The credentials Faust presents; None for a broker that wants no proof."""
    s = settings
    if s.kafka.security == "plaintext":
        return None
    context = _context(s) if s.kafka.security.endswith("ssl") else None
    if s.kafka.security == "ssl":
        return SSLCredentials(context)
    if s.kafka.mechanism == OAUTH:
        return OAuthCredentials(oauth_cb=TokenProvider(s), ssl_context=context)
    return SASLCredentials(
        username=s.kafka.username, password=s.kafka.password, ssl_context=context, mechanism=s.kafka.mechanism
    )


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka.ca_file or None)
        if settings.kafka.cert_file:
            password = settings.kafka.key_password or None
            context.load_cert_chain(settings.kafka.cert_file, settings.kafka.key_file, password)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            "kafka.ca_file", settings.kafka.ca_file, f"certificates that can be read ({error})"
        ) from None
    return context


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """OAuth 2.0 client credentials for aiokafka: one token until most of its life is over (RFC 6749, 4.4).

    librdkafka asks for its own. An endpoint that does not answer makes the connection fail, and it is tried again.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.kafka.token_url
        self._auth = httpx.BasicAuth(settings.kafka.client_id, settings.kafka.client_secret)
        self._scope = settings.kafka.token_scope
        self._verify: ssl.SSLContext | bool = _context(settings) if settings.kafka.ca_file else True
        self._token, self._renew_at = "", 0.0
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """A token that is still good."""
        async with self._lock:
            if not self._token or time.monotonic() >= self._renew_at:
                await self._fetch()
            return self._token

    async def _fetch(self) -> None:
        wanted = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {})}
        async with httpx.AsyncClient(timeout=_TOKEN_TIMEOUT_S, verify=self._verify) as client:
            answer = await client.post(self._url, data=wanted, auth=self._auth)
        answer.raise_for_status()
        granted = answer.json()
        self._token = str(granted["access_token"])
        self._renew_at = time.monotonic() + (1 - _LEFT) * float(granted.get("expires_in", 300))
