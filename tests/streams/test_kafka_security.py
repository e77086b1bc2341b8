"""Workers against a Kafka that asks who they are: SCRAM over TLS, certificates on both sides, OAuth tokens."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from freshet.settings import SettingError, Settings
from schemas.codec import Codec
from schemas.records import Item, UserEvent
from streams.embedded.kafka import KafkaServer
from streams.embedded.process import HOST, ChildProcess, answers, log_tail
from streams.producer import KafkaProducer, kafka_config
from streams.topics import Topics
from tests import servers, topologies

pytestmark = pytest.mark.timeout(240)
PASSWORD, SECRET = "hidden-in-every-log", "hidden-too"
REPOSITORY = Path(__file__).parents[2]


class SecuredKafka(KafkaServer):
    """A broker whose listener is one of a kind; the certificates are those of `folder`."""

    def __init__(self, folder: Path, listener: str, properties: dict[str, str], *options: str) -> None:
        super().__init__(Settings.load().home)
        self._listener, self._properties_more, self.format_options = listener, properties, options
        folder.mkdir(parents=True, exist_ok=True)
        self._certificate, self._key = topologies._certificates(folder)
        self.ca_file = folder / "ca.pem"

    def _properties(self, data: Path) -> str:
        lines = dict(line.split("=", 1) for line in super()._properties(data).splitlines() if "=" in line)
        own = f"{self._listener}://127.0.0.1:{self.port}"
        controller = lines["listeners"].rpartition(",")[2]
        keystore = self._certificate.parent / "server.keystore.pem"
        keystore.write_text(self._key.read_text() + self._certificate.read_text())
        lines |= {
            "listeners": f"{own},{controller}",
            "advertised.listeners": own,
            "inter.broker.listener.name": self._listener,
            "listener.security.protocol.map": f"{self._listener}:{self._listener},CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            **self._properties_more,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def healthy(self) -> bool:
        """True once it runs: it answers whom it knows."""
        return self.child is not None and self.child.running and answers(HOST, self.port)


@contextmanager
def running(server: SecuredKafka, settings: Settings) -> Iterator[None]:
    deadline, admin = time.monotonic() + 60, AdminClient(kafka_config(settings))
    while True:
        with suppress(KafkaException):
            admin.list_topics(timeout=5)
            break
        assert server.child is not None
        assert time.monotonic() < deadline, log_tail(server.child.log)
        time.sleep(0.5)
    yield


def scram() -> tuple[str, dict[str, str], tuple[str, ...]]:
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    jaas = f'{login} username="admin" password="admin-password";'
    words = {"admin": "admin-password", "worker": PASSWORD}
    users = [f"SCRAM-SHA-512=[name={name},password={word}]" for name, word in words.items()]
    return (
        "SASL_SSL",
        {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": jaas,
        },
        tuple(part for user in users for part in ("--add-scram", user)),
    )


def work(settings: Settings, tmp_path: Path, valkey: str, **environment: str) -> ChildProcess:
    """Topics made, records sent, a whole worker that makes features of them, and what it said."""
    topics = Topics(settings)
    topics.create(kafka_config(settings))
    now, codec = time.time_ns() // 1_000_000, Codec()
    producer = KafkaProducer(settings)
    sent = [producer.send(topics.items, b"i1", codec.encode(Item("i1", now, "Oat drink")))]
    sent += [producer.send(topics.user_events, b"u1", codec.encode(UserEvent("u1", "i1", "view", now)))]
    sent += [producer.send(topics.items, b"bad", b"bad")]
    for future in sent:
        future.result(30)
    producer.close()
    worker = start(settings, tmp_path, **environment)
    deadline = time.monotonic() + 90
    with redis.Redis.from_url(valkey) as client:
        while not (client.exists("f:v1:k:i1") and client.exists("f:v1:u:u1")):
            assert time.monotonic() < deadline, log_tail(worker.log)
            time.sleep(0.2)
    return worker


def start(settings: Settings, tmp_path: Path, **environment: str) -> ChildProcess:
    told = {
        f"FRESHET_{name.upper()}": str(getattr(settings, name))
        for name in ("kafka", "redis", "kafka_security", "kafka_mechanism", "kafka_ca_file", "dims")
    }
    child = ChildProcess(
        "worker",
        [sys.executable, "-m", "tests.streams.lane_process", "item-text,item-distill,user-events,user-refresh,sink"],
        log=tmp_path / "worker.log",
        env={**os.environ, **told, "FRESHET_HOME": str(tmp_path), "FRESHET_REFRESH_INTERVAL_S": "0", **environment},
        cwd=REPOSITORY,
        grace_s=20,
    )
    child.start()
    return child


def test_scram_over_tls(valkey: str, tmp_path: Path) -> None:
    """Catches a client that does not encrypt or prove who it is, says its password, or retries a wrong one."""
    listener, properties, options = scram()
    with servers.required(SecuredKafka(tmp_path / "tls", listener, properties, *options)) as server:
        settings = Settings.load(
            {}, kafka=server.address, redis=valkey, dims=8, partitions=1, kafka_security="sasl_ssl",
            kafka_username="worker", kafka_password=PASSWORD, kafka_ca_file=str(server.ca_file),
        )  # fmt: skip
        assert PASSWORD not in repr(settings)
        with running(server, settings):
            secret = tmp_path / "password"
            secret.write_text(PASSWORD + "\n")
            worker = work(
                settings, tmp_path, valkey, FRESHET_KAFKA_USERNAME="worker", FRESHET_KAFKA_PASSWORD_FILE=str(secret)
            )
            worker.stop()
            assert worker.returncode() == 0
            assert PASSWORD not in worker.log.read_text()
            wrong = start(
                settings, tmp_path, FRESHET_KAFKA_USERNAME="worker", FRESHET_KAFKA_PASSWORD="wrong-" + PASSWORD
            )
            deadline = time.monotonic() + 60
            while wrong.running and time.monotonic() < deadline:
                time.sleep(0.2)
            said = wrong.log.read_text()
            assert wrong.returncode() == 1, said[-2_000:]
            assert "uthentication" in said
            assert PASSWORD not in said
            wrong.stop()


def test_certificates_on_both_sides(valkey: str, tmp_path: Path) -> None:
    """Catches a client whose certificate is not shown, in one of the two libraries."""
    listener, properties = "SSL", {"ssl.client.auth": "required"}
    with servers.required(SecuredKafka(tmp_path / "tls", listener, properties)) as server:
        own = {"kafka_cert_file": str(tmp_path / "tls/server.pem"), "kafka_key_file": str(tmp_path / "tls/server.key")}
        settings = Settings.load(
            {}, kafka=server.address, redis=valkey, dims=8, partitions=1, kafka_security="ssl",
            kafka_ca_file=str(server.ca_file), **own,
        )  # fmt: skip
        with running(server, settings):
            environment = {f"FRESHET_{name.upper()}": value for name, value in own.items()}
            worker = work(settings, tmp_path, valkey, **environment)
            worker.stop()
            assert worker.returncode() == 0


class Tokens:
    """An OAuth token endpoint; its tokens are unsigned, which Kafka's default validator takes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                tokens.asked.append(f"{self.headers['Authorization']} {body}")
                now = int(time.time())
                claims = {"sub": "worker", "iat": now, "exp": now + 3_600, "scope": "kafka"}
                texts = [json.dumps(one).encode() for one in ({"alg": "none"}, claims)]
                parts = [base64.urlsafe_b64encode(text).decode().rstrip("=") for text in texts]
                answer = json.dumps({"access_token": ".".join([*parts, ""]), "expires_in": 3_600})
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Tokens:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_oauth_tokens(valkey: str, tmp_path: Path) -> None:
    """Catches a library that asks for no token, or that says its secret."""
    module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    properties = {
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "sasl.mechanism.inter.broker.protocol": "OAUTHBEARER",
        "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config": f'{module} unsecuredLoginStringClaim_sub="admin";',
    }
    with Tokens() as tokens, servers.required(SecuredKafka(tmp_path / "tls", "SASL_PLAINTEXT", properties)) as server:
        settings = Settings.load(
            {}, kafka=server.address, redis=valkey, dims=8, partitions=1, kafka_security="sasl_plaintext",
            kafka_mechanism="OAUTHBEARER", kafka_token_url=tokens.url, kafka_client_id="worker",
            kafka_client_secret=SECRET, kafka_token_scope="kafka",
        )  # fmt: skip
        assert SECRET not in repr(settings)
        with running(server, settings):
            worker = work(
                settings, tmp_path, valkey, FRESHET_KAFKA_TOKEN_URL=tokens.url, FRESHET_KAFKA_CLIENT_ID="worker",
                FRESHET_KAFKA_CLIENT_SECRET=SECRET, FRESHET_KAFKA_TOKEN_SCOPE="kafka",
            )  # fmt: skip
            worker.stop()
            assert worker.returncode() == 0
            assert SECRET not in worker.log.read_text()
        assert all("client_credentials" in one and "scope=kafka" in one for one in tokens.asked)
        assert len(tokens.asked) >= 2, "both libraries"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kafka_security": "sasl_ssl"}, "KAFKA_USERNAME"),
        ({"kafka_security": "sasl_ssl", "kafka_username": "u"}, "KAFKA_PASSWORD"),
        ({"kafka_password": "p"}, "KAFKA_SECURITY"),
        ({"kafka_security": "ssl", "kafka_cert_file": "c"}, "KAFKA_KEY_FILE"),
        ({"kafka_security": "sasl_ssl", "kafka_mechanism": "OAUTHBEARER"}, "KAFKA_TOKEN_URL"),
        ({"kafka_security": "tls"}, "KAFKA_SECURITY"),
    ],
)
def test_settings_that_do_not_belong_together_name_themselves(given: dict[str, str], named: str) -> None:
    """Catches a worker that starts without the credentials somebody meant to give it."""
    with pytest.raises(SettingError, match=f"FRESHET_{named}"):
        Settings.load({}, **given)


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    """Catches a mounted secret with its line break, one that is not there, and a file for what is no secret."""
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    env = {
        "FRESHET_KAFKA_PASSWORD_FILE": str(file),
        "FRESHET_KAFKA_USERNAME": "u",
        "FRESHET_KAFKA_SECURITY": "sasl_ssl",
    }
    assert Settings.load(env).kafka_password == "s3cret"
    assert Settings.load({**env, "FRESHET_KAFKA_PASSWORD": "own"}).kafka_password == "own"
    file.write_text("redis://:pw@host:6379/0\n")
    assert Settings.load({"FRESHET_REDIS_FILE": str(file)}).redis.endswith("host:6379/0")
    with pytest.raises(SettingError, match=r"FRESHET_REDIS_FILE.*readable file"):
        Settings.load({"FRESHET_REDIS_FILE": str(tmp_path / "none")})
