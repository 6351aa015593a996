"""Certificates between a ranker and its shards."""

import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc
import trustme
from dns_server import DnsServer
from pods import Load, Pod, Pods, free_ports, wait_for
from serving_requests import make_request, offline_scores, scores_of
from tritonclient.utils import InferenceServerException

from exfm.artifact.bundle import BundleManifest
from exfm.errors import ConfigError
from exfm.serving.local.processes import Start
from exfm.serving.shard_protocol.frames import HEAD, PING_FRAME, greeting_frame
from exfm.serving.tls import TlsFolder, read_tls

NAMES = ("shard-0.exfm", "shard-1.exfm")


@dataclass
class Authority:
    """Issues certificates into folders."""

    ca: trustme.CA

    def issue(self, folder: Path, *names: str) -> Path:
        """Write a new certificate for these names, its key and the authority's into a folder, and return it."""
        folder.mkdir(exist_ok=True)
        issued = self.ca.issue_cert(*names)
        for file, content in {
            "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems),
            "tls.key": issued.private_key_pem.bytes(),
            "ca.crt": self.ca.cert_pem.bytes(),
        }.items():
            (folder / file).write_bytes(content)
        return folder


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(trustme.CA())


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority(trustme.CA())


def test_a_folder_without_a_file_is_one_clear_error(authority: Authority, tmp_path: Path) -> None:
    folder = authority.issue(tmp_path / "tls", "a.exfm")
    (folder / "ca.crt").unlink()
    with pytest.raises(ConfigError, match=r"ca\.crt: cannot be read \(No such file.*; a folder for TLS holds"):
        read_tls(folder)
    with pytest.raises(ConfigError, match=r"tls\.crt: cannot be read"):
        read_tls(tmp_path / "nowhere")


def test_a_key_of_another_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    folder, other = authority.issue(tmp_path / "tls", "a.exfm"), authority.issue(tmp_path / "other", "a.exfm")
    shutil.copy(other / "tls.key", folder)
    with pytest.raises(ConfigError, match="are not a certificate and its key"):
        read_tls(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [("tls.crt", "are not a certificate and its key"), ("ca.crt", "has no certificate in PEM form")],
)
def test_files_that_hold_no_certificate_are_refused(
    authority: Authority, tmp_path: Path, file: str, message: str
) -> None:
    folder = authority.issue(tmp_path / "tls", "a.exfm")
    (folder / file).write_text("nothing")
    with pytest.raises(ConfigError, match=message):
        read_tls(folder)


def test_a_pair_that_is_half_replaced_leaves_the_old_one_in_use(authority: Authority, tmp_path: Path) -> None:
    folder, new = authority.issue(tmp_path / "tls", "a.exfm"), authority.issue(tmp_path / "new", "a.exfm")
    tls = TlsFolder(folder)
    before = tls.files()
    shutil.copy(new / "tls.crt", folder)
    assert tls.files() == before
    (folder / "tls.key").unlink()
    assert tls.files() == before
    shutil.copy(new / "tls.key", folder)
    assert tls.files() == read_tls(new) != before


def test_files_that_nobody_wrote_since_are_not_read_again(authority: Authority, tmp_path: Path) -> None:
    tls = TlsFolder(authority.issue(tmp_path / "tls", "a.exfm"))
    assert tls.files() is tls.files()


def test_files_that_kubernetes_swaps_are_read_from_one_generation(authority: Authority, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (mounted / name).symlink_to(f"..data/{name}")
    first = authority.issue(mounted / "..2026_1", "a.exfm")
    (mounted / "..data").symlink_to("..2026_1")
    tls = TlsFolder(mounted)
    assert tls.files() == read_tls(first)
    second = authority.issue(mounted / "..2026_2", "a.exfm")
    (mounted / "..data_tmp").symlink_to("..2026_2")
    (mounted / "..data_tmp").rename(mounted / "..data")
    shutil.rmtree(first)
    assert tls.files() == read_tls(second)


def test_the_key_is_not_shown(authority: Authority, tmp_path: Path) -> None:
    assert "PRIVATE KEY" not in repr(read_tls(authority.issue(tmp_path / "tls", "a.exfm")))


@dataclass
class Cluster:
    """Two shards that ask for certificates, and what they are called."""

    shards: list[Pod]
    addresses: list[str]
    folders: list[Path]


@pytest.fixture
def start_shards(
    bundle: Path, pods: Pods, dns: DnsServer, authority: Authority, tmp_path: Path
) -> Callable[..., Cluster]:
    def start(*, settings: dict[str, Any] | None = None) -> Cluster:
        ports = free_ports(2)
        dns.names = {name: ["127.0.0.1"] for name in NAMES}
        folders = [authority.issue(tmp_path / name, name) for name in NAMES]
        shards = [
            pods.shard(bundle, shard, port=port, settings=settings, arguments=["--tls", str(folder)])
            for shard, (port, folder) in enumerate(zip(ports, folders, strict=True))
        ]
        for shard in shards:
            shard.wait_until_ready()
        return Cluster(shards, [dns.address_of(name, port) for name, port in zip(NAMES, ports, strict=True)], folders)

    return start


def wait_for_line(pod: Pod, part: str, *, num_before: int = 0) -> None:
    wait_for(lambda: any(part in line for line in pod.lines()[num_before:]))


@pytest.mark.slow
def test_a_ranker_with_a_certificate_gives_the_unsharded_models_scores(
    start_shards: Callable[..., Cluster], bundle: Path, pods: Pods, authority: Authority, tmp_path: Path
) -> None:
    cluster = start_shards()
    folder = authority.issue(tmp_path / "ranker", "ranker.exfm")
    ranker = pods.ranker(bundle, cluster.addresses, arguments=["--tls", str(folder)])
    ranker.wait_until_ready()
    scores = scores_of(ranker.infer())
    for task, values in offline_scores(bundle, make_request()).items():
        assert scores[task] == pytest.approx(values, abs=1e-3)


@pytest.mark.slow
def test_a_shard_with_a_certificate_answers_nobody_without_one(
    start_shards: Callable[..., Cluster], bundle: Path, pods: Pods, authority: Authority, tmp_path: Path
) -> None:
    shard = start_shards().shards[0]
    with (
        tritonclient.grpc.InferenceServerClient(shard.grpc_address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.is_server_live(client_timeout=5)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    only_authority = {"ssl": True, "root_certificates": str(tmp_path / NAMES[0] / "ca.crt")}
    overridden = [("grpc.ssl_target_name_override", NAMES[0])]
    with (
        tritonclient.grpc.InferenceServerClient(
            shard.grpc_address, **only_authority, channel_args=overridden
        ) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.is_server_live(client_timeout=5)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"

    for path in ("health/live", "health/ready", "models/students-shard-0"):
        assert httpx.get(f"{shard.rest_url}/v2/{path}").status_code == 200
    assert httpx.get(f"{shard.rest_url}/metrics").status_code == 200
    response = httpx.post(f"{shard.rest_url}/v2/models/students-shard-0/infer", json=make_request())
    assert response.status_code == 403
    assert "answers on its gRPC port only, to clients with a certificate" in response.json()["error"]
    assert shard.num_lookups() == 0


@pytest.mark.slow
def test_neither_end_takes_a_certificate_of_another_authority_or_name(
    start_shards: Callable[..., Cluster],
    bundle: Path,
    pods: Pods,
    dns: DnsServer,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
) -> None:
    cluster = start_shards()
    strange = stranger.issue(tmp_path / "strange", "ranker.exfm")
    trusting = stranger.issue(tmp_path / "trusting", "ranker.exfm")
    shutil.copy(cluster.folders[0] / "ca.crt", trusting)  # takes the shards', but has none of that authority
    mistaken = [address.replace("shard-0", "shard-9") for address in cluster.addresses]
    dns.names["shard-9.exfm"] = ["127.0.0.1"]
    good = authority.issue(tmp_path / "good", "ranker.exfm")
    rankers = [
        pods.ranker(bundle, addresses, arguments=["--tls", str(folder)])
        for folder, addresses in ((strange, cluster.addresses), (trusting, cluster.addresses), (good, mistaken))
    ]
    wait_for_line(rankers[0], "CERTIFICATE_VERIFY_FAILED")
    wait_for_line(rankers[1], " s: shard")  # not ready after so many seconds, which a busy machine counts otherwise
    wait_for_line(rankers[2], "Hostname mismatch")
    time.sleep(2)  # for some more attempts
    assert not any(ranker.is_ready() for ranker in rankers)
    assert cluster.shards[0].num_lookups() == 0


@pytest.mark.slow
def test_certificates_are_exchanged_without_a_restart_or_a_lost_request(
    start_shards: Callable[..., Cluster],
    bundle: Path,
    pods: Pods,
    authority: Authority,
    stranger: Authority,
    tmp_path: Path,
) -> None:
    cluster = start_shards(settings={"limits": {"max_connection_age_s": 1}})
    folder = authority.issue(tmp_path / "ranker", "ranker.exfm")
    ranker = pods.ranker(bundle, cluster.addresses, arguments=["--tls", str(folder)])
    ranker.wait_until_ready()
    both = authority.ca.cert_pem.bytes() + stranger.ca.cert_pem.bytes()

    def exchange() -> None:
        everyone = [(ranker, folder, "ranker.exfm"), *zip(cluster.shards, cluster.folders, NAMES, strict=True)]
        for _, at, _ in everyone:  # all trust the new authority before anyone uses it
            swap(at, lambda new: (new / "ca.crt").write_bytes(both))
        for pod, _, _ in everyone:
            wait_for_line(pod, "the new certificate is in use")
        for pod, at, name in everyone:
            num_before = len(pod.lines())
            swap(at, lambda new, name=name: (stranger.issue(new, name) / "ca.crt").write_bytes(both))
            wait_for_line(pod, "the new certificate is in use", num_before=num_before)
        for _, at, _ in everyone:  # nobody trusts the old one any more
            swap(at, lambda new: (new / "ca.crt").write_bytes(stranger.ca.cert_pem.bytes()))
        time.sleep(5)

    load = Load(ranker)
    load.during(exchange)
    assert load.errors == []
    assert load.num_answered > 20
    assert not any("CERTIFICATE_VERIFY_FAILED" in line for pod in (ranker, *cluster.shards) for line in pod.lines())
    assert all(pod.server.process.poll() is None for pod in (ranker, *cluster.shards))


def swap(folder: Path, change: Callable[[Path], object]) -> None:
    """Change a folder's files all at once, as Kubernetes does."""
    new = folder.with_name(f"{folder.name}-{time.monotonic_ns()}")
    current = folder / "..data"
    shutil.copytree(current if current.exists() else folder, new)
    change(new)
    link = folder / "..data_new"
    link.symlink_to(new)
    link.replace(folder / "..data")


@pytest.mark.slow
def test_servers_without_their_certificate_do_not_start(bundle: Path, pods: Pods, tmp_path: Path) -> None:
    arguments = ["--tls", str(tmp_path / "nowhere")]
    for pod in (
        pods.shard(bundle, 0, arguments=arguments),
        pods.ranker(bundle, ["127.0.0.1:1"] * 2, arguments=arguments),
    ):
        assert pod.exit_code() == 2
        assert pod.lines()[-1].startswith(f"error: {tmp_path}/nowhere/tls.crt: cannot be read (No such file")


@pytest.fixture
def stream_shard(bundle: Path, authority: Authority, tmp_path: Path, start_server: Start) -> Iterator[Pod]:
    """Return a shard that answers streams of clients with a certificate; it hangs up on who is silent for 8 s."""
    folder = authority.issue(tmp_path / "shard", NAMES[0])
    pods = Pods(tmp_path, start_server)
    shard = pods.shard(
        bundle,
        0,
        settings={"deadlines": {"stream_silence_s": 8}, "shutdown": {"drain_s": 2}},
        arguments=["--tls", str(folder)],
    )
    try:
        shard.wait_until_ready()
        yield shard
    finally:
        shard.server.process.terminate()
    assert shard.exit_code() == 0


def context_of(client: Authority | None, tmp_path: Path) -> ssl.SSLContext:
    """Return how a client connects to the shard, with a certificate of somebody's or none."""
    context = ssl.create_default_context(cafile=tmp_path / "shard" / "ca.crt")
    if client is not None:
        folder = client.issue(tmp_path / "client", "ranker.exfm")
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


@pytest.mark.slow
def test_a_stream_is_greeted_only_by_tls_and_with_a_certificate(
    stream_shard: Pod, bundle: Path, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    def greeting(client: Authority | None) -> bytes:
        with (
            suppress(ssl.SSLError, ConnectionError),
            stream_shard.connect() as plain,
            context_of(client, tmp_path).wrap_socket(plain, server_hostname=NAMES[0]) as peer,
        ):
            peer.sendall(PING_FRAME)
            return peer.recv(65_536)
        return b""

    expected = greeting_frame(bundle_id=BundleManifest.read(bundle).bundle_id, shard=0)
    assert greeting(authority) == expected
    assert greeting(None) == greeting(stranger) == b""
    with stream_shard.connect() as plain, suppress(ConnectionError):
        plain.sendall(PING_FRAME)
        assert expected[: HEAD.size] not in plain.recv(65_536)


@pytest.mark.slow
def test_a_stream_of_an_authority_that_is_trusted_no_more_is_broken_off(
    stream_shard: Pod, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    context = context_of(authority, tmp_path)
    with stream_shard.connect() as plain, context.wrap_socket(plain, server_hostname=NAMES[0]) as peer:
        peer.sendall(PING_FRAME)
        assert peer.recv(65_536)
        swap(tmp_path / "shard", lambda new: (new / "ca.crt").write_bytes(stranger.ca.cert_pem.bytes()))

        def is_broken_off() -> bool:
            try:
                peer.sendall(PING_FRAME)
                return not peer.recv(65_536)
            except (ConnectionError, ssl.SSLError):
                return True

        wait_for(is_broken_off)


@pytest.mark.slow
def test_a_peer_that_stops_in_the_midst_of_a_handshake_is_left(stream_shard: Pod) -> None:
    with stream_shard.connect() as peer:
        peer.sendall(b"\x16\x03\x01")  # of a record, some
        began_s = time.monotonic()
        with suppress(ConnectionResetError):
            assert peer.recv(1) == b""
        assert 3 < time.monotonic() - began_s < 15
