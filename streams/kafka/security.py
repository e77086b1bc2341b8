"""How clients prove who they are to Kafka, and it to them: TLS, SASL by password or token, for librdkafka.

Owns the translation of settings. Must not print a secret. Faust's is `streams.kafka.faust_security`.
"""

from __future__ import annotations

from typing import Any

from streams.settings import OAUTH, Settings


def librdkafka(settings: Settings) -> dict[str, Any]:
    """The options of confluent clients; empty for a broker that wants no proof."""
    s = settings
    if s.kafka_security == "plaintext":
        return {}
    options: dict[str, Any] = {"security.protocol": s.kafka_security}
    if s.kafka_security.endswith("ssl"):
        options |= {
            "ssl.ca.location": s.kafka_ca_file,
            "ssl.certificate.location": s.kafka_cert_file,
            "ssl.key.location": s.kafka_key_file,
            "ssl.key.password": s.kafka_key_password,
        }
    if s.kafka_security.startswith("sasl"):
        options["sasl.mechanism"] = s.kafka_mechanism
        if s.kafka_mechanism == OAUTH:
            options |= {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": s.kafka_token_url,
                "sasl.oauthbearer.client.id": s.kafka_client_id,
                "sasl.oauthbearer.client.secret": s.kafka_client_secret,
                "sasl.oauthbearer.scope": s.kafka_token_scope,
            }
        else:
            options |= {"sasl.username": s.kafka_username, "sasl.password": s.kafka_password}
    return {name: value for name, value in options.items() if value != ""}
