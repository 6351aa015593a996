"""Processes of other servers, which serve exfm_bench.peers: a plain model of nn.EmbeddingBag in fp32."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

import numpy as np
import safetensors.torch

from exfm.artifact.manifest import write_json
from exfm.environment import COMPUTE_ENVIRONMENT, compute_environment
from exfm.errors import ConfigError
from exfm.features.oip import Tensor
from exfm.serving.local.processes import LOOPBACK, ServerProcess, claim_ports, start_command, stop_processes
from exfm.serving.local.serving import START_TIMEOUT_S, STOP_TIMEOUT_S
from exfm_bench import peers
from exfm_bench.load import Floats
from exfm_bench.serving.servers import cores_of_servers, on_cores
from exfm_bench.workload import DENSE, MODEL_NAME, GeneratedModel

PROGRAMS = Path(peers.__file__).parent


@dataclass(frozen=True)
class Peer:
    """A server, how it is run, and how it gets requests."""

    name: str
    version: str
    program: Path
    """Python for KServe, MLServer's own for MLServer."""
    tuned: bool
    """Raw tensors by gRPC, exfm's environment for memory and threads, as many of torch's threads as exfm's ranker has,
    and nothing logged a request; else JSON by REST, and all defaults."""

    def __str__(self) -> str:
        """Return its name in tables."""
        return f"{self.name} {self.version}, {'tuned' if self.tuned else 'as documented'}"


@dataclass(frozen=True)
class RunningPeer:
    """A peer that is ready."""

    process: ServerProcess
    infer_url: str
    grpc_address: str

    def pids(self) -> tuple[int, ...]:
        """Return its process and those that it started."""
        return tuple(_with_children(self.process.process.pid))


def kserve_peers() -> list[Peer]:
    """Return KServe's own server, as documented and tuned."""
    return [Peer("KServe", version("kserve"), Path(sys.executable), tuned) for tuned in (False, True)]


def mlserver_peers(environment: Path) -> list[Peer]:
    """Return MLServer of a virtual environment, as documented and tuned.

    Raises: ConfigError if it is not installed there.
    """
    places = [str(place) for place in environment.glob("lib/python*/site-packages")]
    found = next(iter(distributions(name="mlserver", path=places)), None)
    program = environment / "bin" / "mlserver"
    if found is None or not program.exists():
        raise ConfigError(
            f"{environment}: no virtual environment with MLServer; make one: python -m venv {environment} && "
            f"{environment}/bin/pip install mlserver 'uvloop<0.22' torch safetensors"
        )
    return [Peer("MLServer", found.version, program, tuned) for tuned in (False, True)]


@contextmanager
def serving_peer(peer: Peer, plain: Path, *, scratch: Path, threads: int) -> Iterator[RunningPeer]:
    """Yield a peer that serves the plain model in a folder, on the measured cores; `scratch` is for its own files.

    `threads` are torch's if it is tuned.

    Raises: ServingError if it does not become ready.
    """
    http_port, grpc_port, metrics_port = claim_ports([0, 0, 0])
    scratch.mkdir(parents=True)
    if peer.name == "KServe":
        command = [
            str(peer.program), "-m", "kserve_server", "--folder", str(plain), "--model_name", MODEL_NAME,
            "--http_port", str(http_port), "--grpc_port", str(grpc_port),
            *(["--threads", str(threads), "--enable_latency_logging", "false"] if peer.tuned else []),
        ]  # fmt: skip
    else:
        ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        tuning = {"debug": False, "parallel_workers": 0} if peer.tuned else {}
        places = {"host": LOOPBACK, **ports, "metrics_dir": str(scratch / "metrics")}
        write_json(scratch / "settings.json", {**places, **tuning})
        extra = {"threads": threads} if peer.tuned else {}
        model = {"name": MODEL_NAME, "implementation": "mlserver_runtime.PlainRuntime"}
        write_json(scratch / "model-settings.json", {**model, "parameters": {"uri": str(plain), "extra": extra}})
        command = [str(peer.program), "start", str(scratch)]
    with on_cores(cores_of_servers()):
        process = start_command(
            str(peer), command, environment=_environment(tuned=peer.tuned), log=scratch / "server.log"
        )
    model_url = f"http://{LOOPBACK}:{http_port}/v2/models/{MODEL_NAME}"
    try:
        process.wait_until_ready(f"{model_url}/ready", watch=process.check, timeout_s=START_TIMEOUT_S)
        yield RunningPeer(process, f"{model_url}/infer", f"{LOOPBACK}:{grpc_port}")
    finally:
        stop_processes([process], timeout_s=STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):  # no workers are left
            os.killpg(process.process.pid, signal.SIGKILL)


def write_plain(model: GeneratedModel, folder: Path) -> None:
    """Write a generated model as exfm_bench.peers reads it: all tables and the network in fp32."""
    folder.mkdir(parents=True)
    tables = {f"tables.{name}": rows for name, rows in model.weights().items()}
    weights = {**tables, **model.dense_network().state_dict()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    write_json(
        folder / "model.json",
        {"dense": dict(DENSE), "sparse": {feature.name: feature.net for feature in model.features}},
    )


def json_body(request: Mapping[str, Tensor]) -> bytes:
    """Return a request in the protocol's JSON form."""
    inputs = [
        {"name": name, "datatype": one.datatype, "shape": list(one.values.shape), "data": one.values.tolist()}
        for name, one in request.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def scores_of_json(answer: bytes) -> Floats:
    """Return the scores of an answer in JSON form."""
    return np.array(json.loads(answer)["outputs"][0]["data"], dtype=np.float64)


def _environment(*, tuned: bool) -> dict[str, str]:
    """Return a peer's environment, without what exfm's command line has set for itself unless it is tuned."""
    inherited = {name: value for name, value in os.environ.items() if name not in COMPUTE_ENVIRONMENT}
    return {**inherited, **(compute_environment() if tuned else {}), "PYTHONPATH": str(PROGRAMS)}


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            for child in (thread / "children").read_text(encoding="ascii").split():
                yield from _with_children(int(child))
