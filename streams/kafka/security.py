"""How clients prove who they are to Kafka, and it to them: TLS, SASL by password or token, for librdkafka.

Owns the translation of settings. Must not print a secret. Faust's is `streams.kafka.faust_security`.
"""

from __future__ import annotations

from typing import Any

from streams.kafka.config import OAUTH
from streams.settings import Settings


def librdkafka(settings: Settings) -> dict[str, Any]:
    """The options of confluent clients; empty for a broker that wants no proof."""
    s = settings
    if s.kafka.security == "plaintext":
        return {}
    options: dict[str, Any] = {"security.protocol": s.kafka.security}
    if s.kafka.security.endswith("ssl"):
        options |= {
            "ssl.ca.location": s.kafka.ca_file,
            "ssl.certificate.location": s.kafka.cert_file,
            "ssl.key.location": s.kafka.key_file,
            "ssl.key.password": s.kafka.key_password,
        }
    if s.kafka.security.startswith("sasl"):
        options["sasl.mechanism"] = s.kafka.mechanism
        if s.kafka.mechanism == OAUTH:
            options |= {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": s.kafka.token_url,
                "sasl.oauthbearer.client.id": s.kafka.client_id,
                "sasl.oauthbearer.client.secret": s.kafka.client_secret,
                "sasl.oauthbearer.scope": s.kafka.token_scope,
            }
        else:
            options |= {"sasl.username": s.kafka.username, "sasl.password": s.kafka.password}
    return {name: value for name, value in options.items() if value != ""}
