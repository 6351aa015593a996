"""Bundles in MLflow."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import mlflow
import pytest
from stream import Stream

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.storage import Ref
from exfm.errors import ConfigError, PromotionError, StorageError
from exfm.registry.mlflow_registry import Registration, Registry, register_all
from exfm.registry.promotion import PromotionRule, TestedVersion, judge

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def registration(root: Path, vertical: Ref, bundle: Ref) -> Registration:
    [registered] = register_all(root=str(root), models=[vertical], bundles=[bundle])
    return registered


@pytest.fixture
def client(root: Path) -> mlflow.MlflowClient:
    uri = f"sqlite:///{root}/registry/mlflow.db"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def test_the_first_version_is_candidate_and_champion(registration: Registration) -> None:
    assert (registration.name, registration.version) == ("search-ads", "1")
    assert registration.aliases == ("candidate", "champion")


def test_an_alias_resolves_to_the_bundle_and_its_digest(root: Path, registration: Registration, bundle: Ref) -> None:
    resolved = Registry.at(str(root), create=False).resolve("models:/search-ads@champion").bundle
    assert resolved == registration.bundle
    assert BundleManifest.read(Path(resolved.uri)).bundle_id == registration.bundle_id
    assert resolved.digest == bundle.digest


def test_a_later_version_is_candidate_and_leaves_the_champion(
    root: Path, registration: Registration, vertical: Ref, bundle: Ref
) -> None:
    later = Registry.at(str(root), create=False).register(model=vertical, bundle=bundle)
    assert (later.version, later.aliases) == ("2", ("candidate",))
    assert Registry.at(str(root), create=False).resolve("models:/search-ads@champion").bundle == registration.bundle


def test_a_version_has_lineage_metrics_and_signature(
    client: mlflow.MlflowClient, registration: Registration, stream: Stream
) -> None:
    version = client.get_model_version("search-ads", "1")
    assert version.tags["bundle_id"] == registration.bundle_id
    assert version.tags.keys() >= {"event_windows", "label_revision", "fm_snapshot", "git_commit"}
    run = client.get_run(version.run_id)
    assert 0 < run.data.metrics["overall.click.normalized_entropy"] < 2
    assert len(client.get_metric_history(version.run_id, "click.normalized_entropy")) > 5
    model = mlflow.models.Model.load(str(Path(registration.bundle.uri) / "MLmodel"))
    assert [output.name for output in model.signature.outputs] == ["click"]
    assert "interests.lengths" in [item.name for item in model.signature.inputs]
    assert (Path(registration.bundle.uri) / model.saved_input_example_info["artifact_path"]).is_file()


def test_nothing_in_the_registry_is_pickled(root: Path, registration: Registration) -> None:
    suffixes = {path.suffix for path in (root / "registry").rglob("*") if path.is_file()}
    assert suffixes == {".db", ".json", ".safetensors", ""}  # "" is MLmodel


def test_a_tracking_server_takes_the_embedded_registrys_place(
    tmp_path: Path, vertical: Ref, bundle: Ref, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        registry = Registry.at("s3://bucket/run", create=True)  # a root that could hold no embedded registry
        registered = registry.register(model=vertical, bundle=bundle)
        resolved = registry.resolve("models:/search-ads@champion").bundle
        assert resolved == registered.bundle
        assert resolved.uri.startswith("mlflow-artifacts:")
        with registry.fetching(resolved) as folder:
            assert BundleManifest.read(folder) == BundleManifest.read(stream.folder(bundle))
        with (
            pytest.raises(StorageError, match="has SHA-256"),
            registry.fetching(resolved.model_copy(update={"digest": "0" * 64})),
        ):
            pass


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """Yield the address of an MLflow server that keeps artifacts for its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "kept")]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the tracking server ended"
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.mark.parametrize("alias", ["models:/search-ads@other", "models:/nobody@champion"])
def test_a_name_that_is_not_registered_is_refused(root: Path, registration: Registration, alias: str) -> None:
    with pytest.raises(StorageError, match="the registry has no model"):
        Registry.at(str(root), create=False).resolve(alias)


def test_a_uri_without_an_alias_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="expected models:/NAME@ALIAS"):
        Registry.at(str(root), create=False).resolve("models:/search-ads")


def test_the_embedded_registry_wants_a_local_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="needs a local root, not s3://bucket/run; set MLFLOW_TRACKING_URI"):
        Registry.at("s3://bucket/run", create=True)


def test_asking_for_a_model_where_there_is_no_registry_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"mlflow.db: no registry there; name its run's root with --root"):
        Registry.at(str(tmp_path), create=False)
    assert not list(tmp_path.iterdir())


def version_with(version: int, entropy: dict[int, float], *, calibration: float = 1.0) -> TestedVersion:
    return TestedVersion(
        version=version,
        normalized_entropy={"click": entropy},
        calibration={"click": dict.fromkeys(entropy, calibration)},
    )


CHAMPION = version_with(1, {3: 0.90, 4: 0.80})

LENIENT = PromotionRule(max_calibration_error=10)
"""Of a small test model, which is badly calibrated."""


@pytest.mark.parametrize(
    ("candidate", "passed", "reason"),
    [
        (
            version_with(2, {3: 0.89, 4: 0.80}),
            True,
            "click: NE 0.84500 against 0.85000 of v1 (windows 3 to 4)",
        ),
        (
            version_with(2, {3: 0.93, 4: 0.80}),
            False,
            "click: NE 0.86500 against 0.85000 of v1 (windows 3 to 4)",
        ),
        (
            version_with(2, {4: 0.80, 5: 9.0}),
            True,
            "click: NE 0.80000 against 0.80000 of v1 (windows 4 to 4)",
        ),
        (version_with(2, {9: 0.10}), False, "click: no window that both were tested on"),
        (
            version_with(2, {3: 0.80, 4: 0.80}, calibration=1.3),
            False,
            "click: calibration is off by 0.300, allowed 0.100",
        ),
    ],
)
def test_a_candidate_passes_only_if_it_is_no_worse_on_the_same_windows(
    candidate: TestedVersion, passed: bool, reason: str
) -> None:
    verdict = judge(candidate, CHAMPION, PromotionRule())
    assert verdict.passed is passed
    assert reason in str(verdict)


def test_a_candidate_without_a_calibration_figure_does_not_pass() -> None:
    gap = TestedVersion(version=2, normalized_entropy={"click": {3: 0.1}}, calibration={})
    assert not judge(gap, None, PromotionRule()).passed


def test_a_candidate_no_worse_calibrated_than_a_badly_calibrated_champion_passes() -> None:
    champion = version_with(1, {3: 0.9}, calibration=1.5)
    assert judge(version_with(2, {3: 0.9}, calibration=1.4), champion, PromotionRule()).passed


def test_only_a_version_that_passes_becomes_champion(
    root: Path, registration: Registration, vertical: Ref, bundle: Ref
) -> None:
    registry = Registry.at(str(root), create=False)
    version = int(registry.register(model=vertical, bundle=bundle).version)
    before = registry.resolve("models:/search-ads@champion").version
    with pytest.raises(PromotionError, match="search-ads v1 does not become champion: click: calibration"):
        registry.promote("search-ads", 1, PromotionRule(max_calibration_error=0))  # held against nothing but 1.0
    assert registry.judge("search-ads", version, LENIENT).passed
    assert registry.resolve("models:/search-ads@champion").version == before != version
    assert registry.promote("search-ads", version, LENIENT).passed
    assert registry.resolve("models:/search-ads@champion").version == version


def test_a_tracking_server_that_is_down_is_named(vertical: Ref, bundle: Ref, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def registry() -> Registry:
        return Registry.at("s3://bucket/run", create=True)

    uses: tuple[Callable[[], object], ...] = (
        lambda: registry().register(model=vertical, bundle=bundle),
        lambda: registry().resolve("models:/search-ads@champion"),
        lambda: registry().judge("search-ads", 1, PromotionRule()),
        lambda: registry().promote("search-ads", 1, PromotionRule()),
    )
    for use in uses:
        with pytest.raises(StorageError, match=f"^the registry at {uri} does not do as asked: .*; check MLFLOW_TRACK"):
            use()


def test_a_version_that_is_not_there_is_named(root: Path, registration: Registration) -> None:
    with pytest.raises(StorageError, match="no version 99 of model 'search-ads'"):
        Registry.at(str(root), create=False).promote("search-ads", 99, PromotionRule())


def test_versions_without_figures_do_not_pass() -> None:
    nothing = TestedVersion(version=2, normalized_entropy={}, calibration={})
    assert not judge(nothing, None, PromotionRule()).passed
    assert not judge(nothing, CHAMPION, PromotionRule()).passed


def test_a_task_that_the_champion_lacks_is_judged_by_its_calibration() -> None:
    both = TestedVersion(
        version=2,
        normalized_entropy={"click": {3: 0.9}, "like": {3: 0.9}},
        calibration={"click": {3: 1.0}, "like": {3: 2.0}},
    )
    verdict = judge(both, CHAMPION, PromotionRule())
    assert str(verdict) == "like: calibration is off by 1.000, allowed 0.100 (windows 3 to 3)"


def test_a_champion_without_calibration_widens_nothing() -> None:
    champion = TestedVersion(version=1, normalized_entropy={"click": {3: 0.9}}, calibration={})
    assert not judge(version_with(2, {3: 0.9}, calibration=1.5), champion, PromotionRule()).passed
