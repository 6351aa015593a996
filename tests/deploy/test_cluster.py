"""What an API server answers, and what becomes of it; the answers are a real one's (Kubernetes 1.34)."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from exfm.deploy import cluster as cluster_module
from exfm.deploy.cluster import Cluster, ForbiddenError
from exfm.errors import ClusterError


def refusal(code: int, message: str) -> tuple[int, Any]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


class ApiServer(ThreadingHTTPServer):
    """Gives one answer after another, the last one again and again, and remembers what it was asked."""

    def __init__(self, answers: list[tuple[int, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.asked: list[tuple[str, str, str]] = []

    def next_answer(self) -> tuple[int, Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.asked.append((self.command, self.path, body))
        code, content = self.server.next_answer()
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # the library's names

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


@contextmanager
def serving(*answers: tuple[int, Any]) -> Iterator[ApiServer]:
    with ApiServer(list(answers)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


Connect = Callable[[str], Cluster]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    monkeypatch.setattr(cluster_module, "_RETRIES", cluster_module._RETRIES.new(total=2, backoff_factor=0))

    def to(url: str) -> Cluster:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "one",
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            "clusters": [{"name": "one", "cluster": {"server": url}}],
            "users": [{"name": "one", "user": {"token": "secret"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        # The library read KUBECONFIG when it was imported.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        return Cluster.connect(namespace="exfm")

    return to


def url(server: ApiServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refusal(401, "Unauthorized"), r"GET InferenceService is refused: Unauthorized; .*no longer valid"),
        ((404, "404 page not found\n"), r"the cluster has no API for InferenceService: install KServe 0.20 or later"),
        (refusal(400, "bad selector"), r"GET InferenceService failed: bad selector"),
        ((500, "etcd is away\nand more"), r"GET InferenceService failed: etcd is away$"),
    ],
)
def test_a_refusal_names_the_request_and_what_to_do(connect: Connect, answer: tuple[int, Any], message: str) -> None:
    with serving(answer) as server, pytest.raises(ClusterError, match=message):
        connect(url(server)).find("InferenceService")


def test_a_right_that_is_missing_is_an_error_of_its_own(connect: Connect) -> None:
    forbidden = refusal(403, 'nodes is forbidden: User "u" cannot list resource "nodes"')
    with serving(forbidden) as server, pytest.raises(ForbiddenError, match=r"cannot list.*needs Role exfm-deployer"):
        connect(url(server)).find("Node")


def test_a_missing_object_is_none_and_deleting_it_is_no_error(connect: Connect) -> None:
    with serving(refusal(404, 'services "x" not found')) as server:
        cluster = connect(url(server))
        assert cluster.get("Service", "x") is None
        cluster.delete("Service", "x")


def test_applying_to_a_missing_namespace_names_the_namespace(connect: Connect) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}
    missing = refusal(404, 'namespaces "exfm" not found')
    with serving(missing) as server, pytest.raises(ClusterError, match='namespaces "exfm" not found'):
        connect(url(server)).apply(service)


def test_an_object_that_is_there_already_is_not_created_again(connect: Connect) -> None:
    job = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": "x"}}
    exists = refusal(409, 'trainjobs.trainer.kubeflow.org "x" already exists')
    with serving((201, job), exists) as server:
        cluster = connect(url(server))
        cluster.create(job)
        cluster.create(job)
    assert [(method, json.loads(body)) for method, _, body in server.asked] == [("POST", job)] * 2


def test_what_a_cluster_without_a_trainer_lacks_is_named(connect: Connect) -> None:
    message = r"the cluster has no API for ClusterTrainingRuntime: install Kubeflow Trainer"
    with serving((404, "404 page not found\n")) as server, pytest.raises(ClusterError, match=message):
        connect(url(server)).get("ClusterTrainingRuntime", "exfm-torchrec")


def test_an_object_is_applied_by_one_field_manager(connect: Connect) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}
    with serving((200, service)) as server:
        assert connect(url(server)).apply(service, dry_run=True) == service
    [(method, path, body)] = server.asked
    assert method == "PATCH"
    assert path == "/api/v1/namespaces/exfm/services/x?fieldManager=exfm&force=true&dryRun=All"
    assert json.loads(body) == service


def test_a_long_list_is_read_page_by_page(connect: Connect) -> None:
    first = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    second = {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}
    with serving((200, first), (200, second)) as server:
        found = connect(url(server)).find("Pod", labels={"exfm.dev/vm": "students"})
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert "labelSelector=exfm.dev%2Fvm%3Dstudents&limit=500&continue=more" in server.asked[1][1]


def test_requests_to_a_busy_api_server_are_retried(connect: Connect) -> None:
    empty = {"metadata": {}, "items": []}
    with serving(refusal(429, "slow down"), refusal(503, "starting"), (200, empty)) as server:
        assert connect(url(server)).find("Pod") == []
    assert len(server.asked) == 3


def test_an_unreachable_api_server_is_named(connect: Connect) -> None:
    with serving((200, {})) as server:
        gone = url(server)
    with pytest.raises(ClusterError, match=f"API server at {gone} cannot be reached .*run the same command again"):
        connect(gone).find("Pod")


def test_retries_last_half_a_minute_while_an_api_server_restarts() -> None:
    retry = cluster_module._RETRIES
    pauses = []
    while not retry.is_exhausted():
        try:
            retry = retry.increment(error=urllib3.exceptions.ConnectTimeoutError())
        except urllib3.exceptions.MaxRetryError:
            break
        pauses.append(retry.get_backoff_time())
    assert 30 < sum(pauses) < 60
