"""mTLS between rankers and shards: who has no certificate is refused, and renewed ones are taken without a restart."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from operators import NAMESPACE, Operator, wait_for
from tls_secrets import tls_secrets

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(operator: Operator, authority: trustme.CA) -> Iterator[Operator]:
    """Version 1 served with mTLS."""
    operator.undeploy()
    operator.apply(*tls_secrets(authority))
    operator.install("mtls")
    operator.deploy(1)
    yield operator
    operator.undeploy()
    operator.install("base")


PROBE = """
import hashlib, json, socket, ssl, sys

given = json.loads(sys.stdin.read())
context = ssl.create_default_context(cadata=given["ca"])
context.set_alpn_protocols(["h2"])
if given["cert"]:
    open("/tmp/pair.pem", "w").write(given["cert"])
    context.load_cert_chain("/tmp/pair.pem")
heard, certificate = b"", ""
try:
    with socket.create_connection((given["host"], 8081), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname=given["host"]) as line:
            certificate = hashlib.sha256(line.getpeercert(True)).hexdigest()
            line.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            heard = line.recv(9)
except (ssl.SSLError, ConnectionError) as error:
    certificate = repr(error)
print(json.dumps({"heard": len(heard), "certificate": certificate}))
"""


def shard_host(operator: Operator) -> str:
    return f"{operator.vm}-v1-s0-grpc.{NAMESPACE}.svc"


def probe(operator: Operator, authority: trustme.CA, *, cert: str) -> Any:
    given = {"host": shard_host(operator), "ca": authority.cert_pem.bytes().decode(), "cert": cert}
    return json.loads(operator.in_client(PROBE, text=json.dumps(given)))


def pair(authority: trustme.CA) -> str:
    leaf = authority.issue_cert("client.test")
    return (leaf.private_key_pem.bytes() + leaf.cert_chain_pems[0].bytes()).decode()


def test_with_mtls_answers_are_right(secured: Operator) -> None:
    with secured.load() as load:
        time.sleep(3)
    assert load.num > 50
    assert (load.failures, load.wrong) == ({}, 0)


def test_a_pod_of_another_namespace_without_the_certificate_is_refused_by_a_shard(
    secured: Operator, authority: trustme.CA
) -> None:
    assert probe(secured, authority, cert=pair(authority))["heard"] > 0
    for cert in ("", pair(trustme.CA())):
        assert probe(secured, authority, cert=cert)["heard"] == 0


def test_a_shards_plain_port_answers_health_and_refuses_inference(secured: Operator) -> None:
    host = f"{secured.vm}-v1-s0-predictor.{NAMESPACE}.svc"
    program = (
        "import httpx; "
        f"print(httpx.get('http://{host}/v2/health/ready').status_code, "
        f"httpx.post('http://{host}/v2/models/{secured.vm}-shard-0/infer', json={{}}).status_code)"
    )
    assert secured.in_client(program).split() == ["200", "403"]


def test_renewed_certificates_are_taken_without_a_restart_or_a_failed_request(
    secured: Operator, authority: trustme.CA
) -> None:
    mine = pair(authority)
    before = probe(secured, authority, cert=mine)["certificate"]
    pods = secured.names("pods")
    with secured.load() as load:
        secured.apply(*tls_secrets(authority))
        wait_for(
            lambda: probe(secured, authority, cert=mine)["certificate"] != before, seconds=150, what="a new certificate"
        )
        time.sleep(5)
    assert (load.failures, load.wrong) == ({}, 0)
    assert secured.names("pods") == pods
