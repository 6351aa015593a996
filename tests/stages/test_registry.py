"""Bundles in MLflow."""

import json
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
from mlflow.exceptions import MlflowException
from numpy.testing import assert_array_equal
from stream import Stream

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.storage import Ref, reading
from exfm.errors import ConfigError, PromotionError, StorageError
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.scoring import UnshardedScorer
from exfm.registry.champion import champion_of, promote
from exfm.registry.log_run import log_windows
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures
from exfm.registry.registration import Registration, register, register_all
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow

FIGURES = TaskFigures(
    task="click", num_examples=1000, num_positives=500, normalized_entropy=0.9, calibration=1.02,
    excess_loss=-0.07, excess_loss_error=0.01,
)  # fmt: skip
PASSED = Judgement(name="search-ads", num_new_windows=1, windows=(7,), tasks=(FIGURES,))
"""Of a first version."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def registration(root: Path, vertical: Ref, bundle: Ref) -> Registration:
    [registered] = register_all(root=str(root), models=[vertical], bundles=[bundle], judgements=[PASSED])
    return registered


@pytest.fixture
def client(root: Path) -> mlflow.MlflowClient:
    uri = f"sqlite:///{root}/registry/mlflow.db"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def test_a_version_is_candidate_and_nothing_is_crowned_unseen(registration: Registration) -> None:
    assert (registration.name, registration.version) == ("search-ads", "1")
    assert registration.aliases == ("candidate",)


@pytest.mark.parametrize("named", ["models:/search-ads@candidate", "models:/search-ads/1"])
def test_a_version_resolves_to_the_bundle_and_its_digest(
    root: Path, registration: Registration, bundle: Ref, named: str
) -> None:
    registry = Registry.at(str(root), create=False)
    resolved = registry.bundle_of(registry.resolve(named))
    assert resolved == registration.bundle
    assert BundleManifest.read(Path(resolved.uri)).bundle_id == registration.bundle_id
    assert resolved.digest == bundle.digest


def test_a_version_has_lineage_metrics_and_signature(client: mlflow.MlflowClient, registration: Registration) -> None:
    version = client.get_model_version("search-ads", "1")
    assert version.tags["bundle_id"] == registration.bundle_id
    assert version.tags.keys() >= {"event_windows", "examples", "fm_snapshot", "git_commit"}
    run = client.get_run(version.run_id)
    for source in ("", ".base_rate", ".logistic"):
        assert 0 < run.data.metrics[f"click.normalized_entropy{source}"] < 2
    assert len(client.get_metric_history(version.run_id, "windows/click.normalized_entropy")) > 5
    model = mlflow.models.Model.load(str(Path(registration.bundle.uri) / "MLmodel"))
    assert [output.name for output in model.signature.outputs] == ["click"]
    assert "interests" in [item.name for item in model.signature.inputs]
    assert (Path(registration.bundle.uri) / model.saved_input_example_info["artifact_path"]).is_file()


def test_a_version_tells_its_figures_and_the_tables_that_it_learned_from(
    client: mlflow.MlflowClient, vertical: Ref, registration: Registration
) -> None:
    with reading(vertical) as folder:
        trained = ModelManifest.read(folder)
    version = client.get_model_version("search-ads", "1")
    run = client.get_run(version.run_id)
    [entropy] = client.get_metric_history(version.run_id, "click.normalized_entropy")
    assert entropy.value == trained.overall["click"].normalized_entropy, "all windows together, not the last one"
    last = trained.qualities[-1]
    of_last = client.get_metric_history(version.run_id, "windows/click.normalized_entropy")[-1]
    assert (of_last.step, of_last.timestamp) == (last.window, trained.windows[-1].end * 1000)
    assert f"| click | search-ads | {entropy.value:.4f} |" in version.description
    assert run.data.tags["mlflow.note.content"] == version.description
    tables = {one.dataset.name: json.loads(one.dataset.source) for one in run.inputs.dataset_inputs}
    assert tables == {name: ref.to_dict() for name, ref in trained.tables.items()}


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType:UserWarning")  # MLflow's own, at import
def test_mlflow_scores_a_frame_to_the_scores_of_the_bundle(
    root: Path, registration: Registration, vertical: Ref, bundle: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(vertical) as folder:
        trained = ModelManifest.read(folder)
    rows = trained.examples().read(trained.windows[-1], domains=trained.domains)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/registry/mlflow.db")
    loaded = mlflow.pyfunc.load_model("models:/search-ads@candidate")
    scored = loaded.predict(rows.to_pandas())
    scorer = UnshardedScorer.load(Path(bundle.uri))
    schema = scorer.manifest.feature_schema
    expected = scorer.scores(encode_examples(raw_columns(rows.to_arrow(), schema), schema))
    assert list(scored.columns) == ["click"]
    assert_array_equal(scored.to_numpy(), expected)
    with pytest.raises(MlflowException, match="interests"):
        loaded.predict(rows.drop("interests").to_pandas())


def test_nothing_in_the_registry_is_pickled(root: Path, registration: Registration) -> None:
    suffixes = {path.suffix for path in (root / "registry").rglob("*") if path.is_file()}
    assert suffixes == {".db", ".json", ".parquet", ".safetensors", ""}  # "" is MLmodel


def test_a_tracking_server_takes_the_embedded_registrys_place(
    tmp_path: Path, vertical: Ref, bundle: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        registry = Registry.at("s3://bucket/run", create=True)  # a root that could hold no embedded registry
        registered = register(registry, model=vertical, bundle=bundle, judgement=PASSED)
        resolved = registry.bundle_of(registry.resolve("models:/search-ads@candidate"))
        assert resolved == registered.bundle
        assert resolved.uri.startswith("mlflow-artifacts:")
        with registry.fetching(resolved) as folder:
            assert BundleManifest.read(folder) == BundleManifest.read(Path(bundle.uri))
        promote(registry, "search-ads", 1, PromotionRule())
        champion = champion_of(registry, "search-ads")
        assert champion is not None
        assert champion.bundle == resolved
        assert champion.recorded.height > 0
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
    with pytest.raises(StorageError, match=r"mlflow.db: there is no registry; name its run's root with --root"):
        Registry.at(str(tmp_path), create=False)
    assert not list(tmp_path.iterdir())


def test_only_a_version_that_passes_becomes_champion(
    root: Path, registration: Registration, vertical: Ref, bundle: Ref
) -> None:
    registry = Registry.at(str(root), create=False)
    with pytest.raises(PromotionError, match=r"search-ads v1 does not become champion: refused.*calibration error"):
        promote(registry, "search-ads", 1, PromotionRule(max_calibration_error=0))
    assert champion_of(registry, "search-ads") is None
    assert promote(registry, "search-ads", 1, PromotionRule()).outcome == "passed"
    assert int(registry.resolve("models:/search-ads@champion").version) == 1
    champion = champion_of(registry, "search-ads")
    assert champion is not None
    assert champion.version == 1
    assert champion.recorded.height > 0


def test_a_tracking_server_that_is_down_is_named(
    stream: Stream, vertical: Ref, bundle: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def registry() -> Registry:
        return Registry.at("s3://bucket/run", create=True)

    uses: tuple[Callable[[], object], ...] = (
        lambda: register(registry(), model=vertical, bundle=bundle, judgement=PASSED),
        lambda: registry().resolve("models:/search-ads@champion"),
        lambda: champion_of(registry(), "search-ads"),
        lambda: promote(registry(), "search-ads", 1, PromotionRule()),
        lambda: log_windows(registry(), stream.das, name="ads"),
    )
    for use in uses:
        with pytest.raises(StorageError, match=f"^a request to the registry at {uri} failed: .*; check MLFLOW_TRACK"):
            use()


def test_a_version_that_is_not_there_is_named(root: Path, registration: Registration) -> None:
    with pytest.raises(StorageError, match="no version 99 of model 'search-ads'"):
        promote(Registry.at(str(root), create=False), "search-ads", 99, PromotionRule())
