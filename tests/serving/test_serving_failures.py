"""What callers see when a server or a bundle breaks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pods import LONG_S, Pod, Pods, children_of, wait_for
from pydantic import TypeAdapter, ValidationError
from serving_requests import infer_by_grpc, make_request
from tritonclient.utils import InferenceServerException

from exfm.artifact.bundle import BundleManifest, tables_file
from exfm.errors import BundleError, ConfigError, DeadlineError, ServingError, ShardUnavailableError
from exfm.serving.config import Address, Device, RankerConfig, ShardConfig, ShutdownConfig
from exfm.serving.local.processes import Start, claim_ports
from exfm.serving.local.serving import LocalServing, serve_local
from exfm.serving.models.bundle_part import read_manifest, verify_files
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow

SERVE = (
    "import sys; from pathlib import Path; from exfm.serving.local.serving import serve_until_stopped; "
    "serve_until_stopped(Path(sys.argv[1]), http_port=0, grpc_port=0, announce=lambda line: print(line, flush=True))"
)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"  # orphans may have no one who reaps them


def answers(ranker: Pod) -> bool:
    try:
        return bool(ranker.infer())
    except (ShardUnavailableError, DeadlineError):
        return False


@pytest.fixture
def serve(bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that does what `exfm serve` does, as soon as it has started its servers."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(bundle)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(children_of(process.pid)) == 3)
    yield process
    process.kill()
    process.communicate()


def test_a_stopped_shard_gives_deadline_exceeded_within_the_deadline(served: LocalServing) -> None:
    shard = served.servers[2].process
    shard.send_signal(signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        with pytest.raises(
            DeadlineError, match=f"shard 1 at {served.lookup_addresses[1]} did not answer within the 300 ms"
        ):
            served.infer(make_request() | {"parameters": {"timeout": 300_000}})
        with pytest.raises(InferenceServerException) as caught:
            infer_by_grpc(served.grpc_address, make_request(), client_timeout=0.3)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        assert time.monotonic() - began_s < 1.5
    finally:
        shard.send_signal(signal.SIGCONT)
    assert served.infer(make_request())


def test_a_killed_shard_gives_unavailable_within_the_deadline_and_is_found_again(bundle: Path, pods: Pods) -> None:
    shards = [pods.shard(bundle, shard) for shard in range(2)]
    ranker = pods.ranker(bundle, [shard.lookup_address for shard in shards])
    ranker.wait_until_ready()
    lost = shards[1].lookup_address
    shards[1].server.process.kill()
    shards[1].exit_code()
    began_s = time.monotonic()
    with pytest.raises(ShardUnavailableError, match=f"shard 1 at {lost} cannot be reached"):
        ranker.infer()
    with pytest.raises(InferenceServerException) as caught:
        infer_by_grpc(ranker.grpc_address, make_request(), client_timeout=30.0)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert time.monotonic() - began_s < 10

    pods.shard(bundle, 1, port=int(lost.rsplit(":", 1)[1]))
    wait_for(lambda: answers(ranker))


def test_sigterm_lets_a_request_end_and_stops_all_servers(serve: subprocess.Popen[str], bundle: Path) -> None:
    assert serve.stdout is not None
    line = serve.stdout.readline()
    assert line.startswith(f"serving students (bundle {BundleManifest.read(bundle).bundle_id[:12]}, 2 shards): REST ")
    url = line.split("REST ")[1].split("/v2/")[0]
    servers = children_of(serve.pid)
    os.kill(servers[1], signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(infer, url, "students", make_request() | {"parameters": {"timeout": 5_000_000}})
        time.sleep(0.5)  # it now waits for the shard that is stopped
        serve.terminate()
        time.sleep(0.5)
        os.kill(servers[1], signal.SIGCONT)
        assert under_way.result()["model_name"] == "students"
    assert serve.wait(LONG_S) == 0
    assert not any(is_running(pid) for pid in servers)


def test_servers_are_left_the_time_to_stop_that_their_settings_give_them(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, start_server: Start
) -> None:
    monkeypatch.setattr("exfm.serving.local.serving.STOP_TIMEOUT_S", 2.0)
    with serve_local(
        bundle, ranker=RankerConfig(shutdown=ShutdownConfig(lame_duck_s=4, drain_s=0)), start=start_server
    ) as serving:
        process = serving.servers[0].process
    assert process.returncode == 0


def test_sigterm_breaks_off_a_start(serve: subprocess.Popen[str]) -> None:
    servers = children_of(serve.pid)
    serve.terminate()
    assert serve.wait(LONG_S) == 0
    assert not any(is_running(pid) for pid in servers)


def test_sigterm_ends_a_server_that_still_loads() -> None:
    code = (
        "import os, signal, time; from exfm.serving.config import ServerConfig; "
        "from exfm.serving.server.process import run; "
        "run(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60)), config=ServerConfig())"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=LONG_S, check=False).returncode == 0


def test_kill_9_leaves_no_server(serve: subprocess.Popen[str]) -> None:
    servers = children_of(serve.pid)
    serve.kill()
    serve.wait()
    wait_for(lambda: not any(is_running(pid) for pid in servers))


def test_a_shard_that_dies_is_announced_and_callers_are_told_until_the_end(serve: subprocess.Popen[str]) -> None:
    assert serve.stdout is not None
    url = serve.stdout.readline().split("REST ")[1].split("/v2/")[0]
    servers = children_of(serve.pid)
    os.kill(servers[1], signal.SIGKILL)
    assert serve.stdout.readline().startswith("shard 0 has ended: requests fail (503, UNAVAILABLE)")
    for _ in range(2):
        with pytest.raises(ShardUnavailableError, match=r"shard 0 at .* cannot be reached"):
            infer(url, "students", make_request())
    os.kill(servers[0], signal.SIGKILL)
    _, stderr = serve.communicate(timeout=LONG_S)
    assert "ServingError: the ranker was ended by SIGKILL" in stderr
    assert not any(is_running(pid) for pid in servers)


def test_a_server_that_dies_at_the_start_is_named_and_the_others_are_stopped(serve: subprocess.Popen[str]) -> None:
    servers = children_of(serve.pid)
    os.kill(servers[1], signal.SIGKILL)
    _, stderr = serve.communicate(timeout=LONG_S)
    assert "ServingError: shard 0 was ended by SIGKILL" in stderr
    assert not any(is_running(pid) for pid in servers)


@pytest.fixture
def damaged(bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle with one bit of shard 1's tables flipped."""
    copy = tmp_path / "damaged"
    shutil.copytree(bundle, copy)
    file = copy / tables_file(1)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return copy


def test_a_damaged_bundle_is_not_served(damaged: Path, start_server: Start) -> None:
    with (
        pytest.raises(BundleError, match=r"shards/1/tables\.safetensors is damaged"),
        serve_local(damaged, start=start_server),
    ):
        pass


def test_a_server_checks_its_own_part_of_a_bundle_only(damaged: Path) -> None:
    manifest = read_manifest(damaged)
    verify_files(damaged, manifest, [tables_file(0)])
    with pytest.raises(BundleError, match=r"shards/1/tables\.safetensors is damaged"):
        verify_files(damaged, manifest, [tables_file(1)])


def test_a_port_in_use_is_one_clear_error(served: LocalServing, bundle: Path, start_server: Start) -> None:
    port = int(served.rest_url.rsplit(":", 1)[1])
    with (
        pytest.raises(ConfigError, match=f"cannot listen on port {port} of 127.0.0.1"),
        serve_local(bundle, http_port=port, start=start_server),
    ):
        pass


def test_free_ports_differ() -> None:
    assert len(set(claim_ports([0] * 8))) == 8


def test_a_server_that_cannot_start_says_why_in_one_line(damaged: Path) -> None:
    command = [sys.executable, "-m", "exfm.serving.shard", "--bundle", str(damaged), "--shard", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "shards/1/tables.safetensors is damaged" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("server", ["ranker", "shard"])
def test_a_server_for_a_gpu_that_is_not_there_does_not_start(bundle: Path, server: str, start_server: Start) -> None:
    device: dict[str, Device] = {"ranker": "cpu", "shard": "cpu", server: "cuda"}
    with (
        pytest.raises(ServingError, match=r"device is 'cuda', but torch .* finds no GPU here; set 'cpu'"),
        serve_local(
            bundle,
            ranker=RankerConfig(device=device["ranker"]),
            shard=ShardConfig(device=device["shard"]),
            start=start_server,
        ),
    ):
        pass


@pytest.mark.parametrize(
    "address",
    ["", "shard", ":8082", "a:0", "a:65536", "a:70000", "dns://[::1]:53/a:1", "dns://a:99999/b:1", "dns:///a:1"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Address).validate_python(address)


@pytest.mark.parametrize("address", ["a:1", "10.0.0.1:65535", "dns://10.0.0.1:53/a.b:8082", "dns://10.0.0.1/a:8082"])
def test_an_address_may_name_a_dns_server(address: str) -> None:
    assert TypeAdapter(Address).validate_python(address) == address


def test_int8_is_not_for_a_gpu() -> None:
    with pytest.raises(ValidationError, match="dense_precision is 'int8', which only CPUs support"):
        RankerConfig(device="cuda", dense_precision="int8")
