"""A Kubeflow Pipelines API server's part that a client here needs: it keeps what it gets, and runs nothing."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"


@dataclass
class Kubeflow:
    """What a server was asked, and what it tells of a run."""

    host: str = ""
    token: str = ""
    """That callers must bring; empty: none."""
    states: list[dict[str, Any]] = field(default_factory=list)
    """Of the run, each time that it is asked for; the last one stays."""
    pipelines: dict[str, str] = field(default_factory=dict)
    """Ids by name."""
    uploads: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Path, name and body of each."""
    versions: dict[str, str] = field(default_factory=dict)
    """Ids by name."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recurring runs by id, as they were asked for."""
    changes: list[str] = field(default_factory=list)
    """What was done to recurring runs, in order."""


def _handler(kubeflow: Kubeflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix(API)
            if kubeflow.token and self.headers.get("authorization") != f"Bearer {kubeflow.token}":
                return self._answer({"error": "Unauthenticated"}, status=401)
            if path.startswith("/runs/"):
                state = kubeflow.states.pop(0) if len(kubeflow.states) > 1 else kubeflow.states[0]
                return self._answer({"run_id": "run-1"} | state)
            if path == "/experiments":
                return self._answer({})
            if path == "/pipelines":
                name = self._wanted()
                known = kubeflow.pipelines.get(name)
                return self._answer({"pipelines": [{"pipeline_id": known, "display_name": name}]} if known else {})
            if path.endswith("/versions"):
                name = self._wanted()
                known = kubeflow.versions.get(name)
                versions = [{"pipeline_version_id": known, "display_name": name}]
                return self._answer({"pipeline_versions": versions} if known else {})
            if path == "/recurringruns":
                return self._answer({"recurringRuns": list(kubeflow.recurring.values())})
            if path == "/runs":
                return self._answer({"runs": [one | {"run_id": "run-1"} for one in kubeflow.runs]})
            return self._answer({"multi_user": False})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path.removeprefix(API)
            if path == "/pipelines":
                pipeline_id = f"pipeline-{len(kubeflow.pipelines) + 1}"
                kubeflow.pipelines[json.loads(body)["display_name"]] = pipeline_id
                return self._answer({"pipeline_id": pipeline_id})
            if path == "/pipelines/upload_version":
                kubeflow.uploads.append((path, self._query("name"), body))
                version_id = f"version-{len(kubeflow.uploads)}"
                kubeflow.versions[self._query("name")] = version_id
                pipeline_id = self._query("pipelineid")
                return self._answer({"pipeline_id": pipeline_id, "pipeline_version_id": version_id})
            if path == "/recurringruns":
                recurring_id = f"recurring-{len(kubeflow.changes) + 1}"
                made = json.loads(body) | {"recurring_run_id": recurring_id, "status": "ENABLED"}
                kubeflow.recurring[recurring_id] = made
                kubeflow.changes.append(f"create {recurring_id}")
                return self._answer(made)
            if path == "/runs":
                kubeflow.runs.append(json.loads(body))
                return self._answer({"run_id": "run-1"})
            assert path == "/experiments"
            return self._answer({"experiment_id": "experiment-1", "display_name": json.loads(body)["display_name"]})

        def do_DELETE(self) -> None:
            recurring_id = urlsplit(self.path).path.removeprefix(f"{API}/recurringruns/")
            del kubeflow.recurring[recurring_id]
            kubeflow.changes.append(f"delete {recurring_id}")
            self._answer({})

        def _wanted(self) -> str:
            [wanted] = json.loads(self._query("filter"))["predicates"]
            return str(wanted.get("stringValue") or wanted["string_value"])

        def _query(self, key: str) -> str:
            return parse_qs(urlsplit(self.path).query).get(key, [""])[0]

        def _answer(self, answer: dict[str, Any], *, status: int = 200) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *what: object) -> None:
            """Write nothing."""

    return Handler


@contextmanager
def running(kubeflow: Kubeflow) -> Iterator[Kubeflow]:
    """Yield a server's record while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kubeflow))
    kubeflow.host = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield kubeflow
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
