"""Workers against a Kafka that asks who they are: SCRAM over TLS, certificates on both sides, OAuth tokens."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from freshet.records import Item, UserEvent
from local.stack.process import ChildProcess, log_tail
from schemas.codec import Codec
from streams.kafka.producer import KafkaProducer, kafka_config
from streams.kafka.topics import Topics
from streams.settings import SettingError, Settings
from tests.support import servers
from tests.support.secured_kafka import PASSWORD, SecuredKafka, running, scram, start

pytestmark = pytest.mark.timeout(240)
SECRET = "hidden-too"


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


def test_scram_over_tls(valkey: str, tmp_path: Path) -> None:
    """Catches a client that does not encrypt or prove who it is, says its password, or retries a wrong one."""
    listener, properties, options = scram({"worker": PASSWORD})
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
        ({"kafka_security": "sasl_ssl"}, "KAFKA__USERNAME"),
        ({"kafka_security": "sasl_ssl", "kafka_username": "u"}, "KAFKA__PASSWORD"),
        ({"kafka_password": "p"}, "KAFKA__SECURITY"),
        ({"kafka_security": "ssl", "kafka_cert_file": "c"}, "KAFKA__KEY_FILE"),
        ({"kafka_security": "sasl_ssl", "kafka_mechanism": "OAUTHBEARER"}, "KAFKA__TOKEN_URL"),
        ({"kafka_security": "tls"}, "KAFKA__SECURITY"),
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
    assert Settings.load(env).kafka.password == "s3cret"
    assert Settings.load({**env, "FRESHET_KAFKA_PASSWORD": "own"}).kafka.password == "own"
    file.write_text("redis://:pw@host:6379/0\n")
    assert Settings.load({"FRESHET_REDIS_FILE": str(file)}).redis.url.endswith("host:6379/0")
    with pytest.raises(SettingError, match=r"FRESHET_REDIS_FILE.*readable file"):
        Settings.load({"FRESHET_REDIS_FILE": str(tmp_path / "none")})
