"""The settings of Kafka: where it is, who we are there, and how many dead letters are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.setting import SettingError, SettingGroup, setting

OAUTH = "OAUTHBEARER"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KafkaSettings(SettingGroup):
    """`[kafka]`: brokers, topics that we make, and how a client proves who it is."""

    GROUP: ClassVar[str] = "kafka"
    MAIN: ClassVar[str] = "servers"

    servers: str = setting("", "Bootstrap servers, host:port[,host:port]; empty: the stack of `freshet up`")
    partitions: int = setting(4, "Partitions of topics that `freshet topics create` makes", least=1, most=10_000)
    replication: int = setting(1, "Replication factor of those topics", least=1, most=10)
    session_timeout_s: float = setting(
        15.0, "Kafka takes a worker silent for so long for dead and gives its partitions to others", least=1
    )
    security: str = setting(
        "plaintext", "How Kafka is reached", words=("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
    )
    mechanism: str = setting(
        "SCRAM-SHA-512",
        "How a password or token is presented",
        words=("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTH),
    )
    username: str = setting("", "User name at Kafka")
    password: str = setting("", "Its password", secret=True)
    ca_file: str = setting("", "Certificates that sign Kafka's, PEM; empty: those of the system")
    cert_file: str = setting("", "Our own certificate for Kafka, PEM (mutual TLS)")
    key_file: str = setting("", "Its key, PEM")
    key_password: str = setting("", "The password of that key", secret=True)
    token_url: str = setting("", "OAUTHBEARER: token endpoint (OAuth 2.0 client credentials)", url=True)
    client_id: str = setting("", "OAUTHBEARER: client id")
    client_secret: str = setting("", "OAUTHBEARER: its secret", secret=True)
    token_scope: str = setting("", "OAUTHBEARER: scope to ask for")

    def __post_init__(self) -> None:
        SettingGroup.__post_init__(self)
        if self.security.startswith("sasl"):
            self._check_credentials()
        elif self.username or self.password or self.client_secret:
            raise SettingError("kafka.security", self.security, "sasl_ssl, as there are credentials")
        if bool(self.cert_file) != bool(self.key_file):
            name = "kafka.key_file" if self.cert_file else "kafka.cert_file"
            raise SettingError(name, "", "a file: certificate and key belong together")

    def _check_credentials(self) -> None:
        if self.mechanism == OAUTH:
            for name in ("token_url", "client_id", "client_secret"):
                if not getattr(self, name):
                    raise SettingError(f"kafka.{name}", "", f"a value, as FRESHET_KAFKA__MECHANISM is {OAUTH}")
        elif not (self.username and self.password):
            name = "kafka.password" if self.username else "kafka.username"
            raise SettingError(name, "", f"a value, as FRESHET_KAFKA__SECURITY is {self.security}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeadLetterSettings(SettingGroup):
    """`[dead_letters]`: when they say that a deployment is wrong rather than the data."""

    GROUP: ClassVar[str] = "dead_letters"

    run: int = setting(1_000, "This many dead letters in a row on one partition stop the worker", least=1)
    ratio: float = setting(
        0.5, "A larger share of dead letters among a partition's latest records stops the worker", least=0, most=1
    )
