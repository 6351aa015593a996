"""What `exfm collect --bundles` removes, and what it keeps."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import mlflow
import pytest

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest, draft_bundle, note_latest, seal_bundle
from exfm.artifact.manifest import write_json
from exfm.artifact.output import writing_once
from exfm.artifact.plan import ShardPlan
from exfm.artifact.storage import MANIFEST, ref_to
from exfm.artifact.stores import list_folders
from exfm.cli.main import main
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.objects import ISVC_KIND
from exfm.deploy.release import make_release
from exfm.deploy.rollout import roll_out
from exfm.errors import ClusterError
from exfm.models.config import NetworkConfig
from exfm.registry.mlflow_registry import ID_TAG, Registry
from exfm.schema import Schema
from exfm_components import layout
from exfm_components.bundle_collection import MIN_AGE_S, FinishedBundle, collect_bundles, unnamed
from simulated_cluster import SimulatedCluster

NAME = "students"

Add = Callable[..., str]
"""Write the bundle of this number into a root, and return its id."""
Collect = Callable[..., tuple[int, list[str], str]]
"""Run the command with these options; return its exit code, lines and error."""


@pytest.fixture
def add(schema: Schema, plan: ShardPlan) -> Add:
    def write(root: str, number: int, *, age_s: float = 0.0) -> str:
        folder = layout.bundles(root, NAME)
        network, lineage = NetworkConfig().to_dict(), {"number": str(number)}
        with writing_once(folder, name=lambda made: BundleManifest.read(made).bundle_id) as made:
            for name in (GOLDEN_REQUEST, GOLDEN_RESPONSE):
                (made / name).parent.mkdir(exist_ok=True)
                write_json(made / name, {"number": number})
            manifest = seal_bundle(
                made, draft_bundle(name=NAME, schema=schema, network=network, plan=plan, lineage=lineage)
            )
        note_latest(folder, manifest.bundle_id)
        if age_s:
            written_s = time.time() - age_s
            os.utime(f"{folder}/{manifest.bundle_id}/{MANIFEST}", (written_s, written_s))
        return manifest.bundle_id

    return write


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimulatedCluster:
    """What the command finds when it connects."""
    one = SimulatedCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **where: one)
    return one


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Collect:
    def run(*options: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["exfm", "collect", NAME, "--bundles", str(tmp_path), *options])
        with pytest.raises(SystemExit) as caught:
            main()
        told = capsys.readouterr()
        return int(caught.value.code or 0), told.out.splitlines(), told.err

    return run


@pytest.fixture(scope="session")
def made_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of an embedded registry without models."""
    root = tmp_path_factory.mktemp("registry")
    Registry.at(str(root), create=True).require()
    return root


@pytest.fixture
def client(tmp_path: Path, made_registry: Path) -> mlflow.MlflowClient:
    """Return a client of an embedded registry without models at the root."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry/mlflow.db").write_bytes((made_registry / "registry/mlflow.db").read_bytes())
    uri = f"sqlite:///{tmp_path}/registry/mlflow.db"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def deploy(cluster: SimulatedCluster, root: Path, bundle_id: str, *, version: int, hot_s: int = 3600) -> None:
    """Have a bundle served as pods find it, in a claim."""
    folder = Path(layout.bundle(str(root), NAME, bundle_id))
    manifest = BundleManifest.read(folder)
    uri = f"pvc://claim/run/bundle/{NAME}/{bundle_id}"
    release = make_release(manifest, uri=uri, digest=ref_to(str(folder)).digest, version=version)
    roll_out(cast(Cluster, cluster), release, DeployConfig(hot_s=hot_s), report=lambda line: None)


def register(client: mlflow.MlflowClient, tags: dict[str, str], *, alias: str = "") -> None:
    """Add a version with these tags, with an alias if one is given."""
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    version = client.create_model_version(NAME, source="/elsewhere", tags=tags).version
    if alias:
        client.set_registered_model_alias(NAME, alias, version)


def files(root: Path) -> dict[str, bytes]:
    folder = Path(layout.bundles(str(root), NAME))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bundles_that_nothing_names_for_a_day_are_removed() -> None:
    bundles = [FinishedBundle("a", 0), FinishedBundle("b", 0), FinishedBundle("c", 1)]
    assert unnamed(bundles, named={"b"}, now_s=MIN_AGE_S) == ["a"]
    assert unnamed(bundles, named=set(), now_s=MIN_AGE_S + 1) == ["a", "b", "c"]


@pytest.mark.slow
def test_named_bundles_stay_unchanged_and_others_are_removed(
    cluster: SimulatedCluster, client: mlflow.MlflowClient, collect: Collect, add: Add, tmp_path: Path
) -> None:
    old = 2 * MIN_AGE_S
    unregistered, superseded, earlier, serving, champion, candidate = (
        add(str(tmp_path), number, age_s=old) for number in range(6)
    )
    young = add(str(tmp_path), 6)
    newest = add(str(tmp_path), 7, age_s=old)
    for bundle_id in (superseded, earlier, serving):
        register(client, {ID_TAG: bundle_id})
    register(client, {ID_TAG: champion}, alias="champion")
    register(client, {ID_TAG: candidate}, alias="candidate")
    for version, bundle_id in enumerate((earlier, serving), 2):
        deploy(cluster, tmp_path, bundle_id, version=version, hot_s=0)
    cluster.rest()
    assert cluster.names() == [NAME, f"{NAME}-v3-s0", f"{NAME}-v3-s1"]  # of the earlier one a rollback knows alone
    before = files(tmp_path)

    code, lines, _ = collect()

    assert code == 0
    removed = sorted((unregistered, superseded))
    assert lines[-2:] == [f"{NAME}: removed bundle {bundle_id[:12]}" for bundle_id in removed]
    kept = {earlier, serving, champion, candidate, young, newest}
    assert set(list_folders(layout.bundles(str(tmp_path), NAME))) == kept
    assert files(tmp_path) == {name: content for name, content in before.items() if name.split("/")[0] not in removed}
    assert collect()[1] == [f"{NAME}: nothing to collect", f"{NAME}: no bundle to remove"]


@pytest.mark.slow
def test_a_bundle_is_removed_only_after_the_shards_that_hold_it(
    cluster: SimulatedCluster, client: mlflow.MlflowClient, collect: Collect, add: Add, tmp_path: Path
) -> None:
    held, _ = add(str(tmp_path), 0, age_s=2 * MIN_AGE_S), add(str(tmp_path), 1)
    register(client, {})
    deploy(cluster, tmp_path, held, version=1)
    cluster.outage = True
    cluster.delete(ISVC_KIND, NAME)  # of the ranker, whose history goes with it
    cluster.rest()
    assert collect("--unfinished")[1] == [f"{NAME}: removing the shards of v1", f"{NAME}: no bundle to remove"]
    cluster.rest()
    removed = f"{NAME}: removed bundle {held[:12]}"
    assert collect()[1] == [f"{NAME}: not deployed in namespace exfm", removed]


@pytest.mark.slow
def test_folders_that_are_no_finished_bundles_stay(
    cluster: SimulatedCluster, client: mlflow.MlflowClient, collect: Collect, tmp_path: Path
) -> None:
    register(client, {})
    folder = Path(layout.bundles(str(tmp_path), NAME))
    for name in ("0" * 64, "by-hand"):
        (folder / name).mkdir(parents=True)
        (folder / name / "part").write_text("of an upload that was cut off, or of others")
    (folder / "by-hand" / MANIFEST).write_text('{"files": {}}')
    os.utime(folder / "by-hand" / MANIFEST, (0, 0))
    before = files(tmp_path)
    assert collect()[1] == [f"{NAME}: not deployed in namespace exfm", f"{NAME}: no bundle to remove"]
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_model_that_neither_cluster_nor_registry_knows_is_refused(
    cluster: SimulatedCluster, client: mlflow.MlflowClient, collect: Collect, add: Add, tmp_path: Path
) -> None:
    for number in range(2):
        add(str(tmp_path), number, age_s=2 * MIN_AGE_S)
    before = files(tmp_path)
    code, lines, error = collect()
    assert (code, lines) == (3, [])
    assert "no vertical model 'students' serves in namespace exfm" in error
    assert files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["cluster", "no registry", "registry", "a version of no bundle"])
def test_nothing_is_removed_unless_cluster_and_registry_say_what_they_name(
    silent: str,
    cluster: SimulatedCluster,
    client: mlflow.MlflowClient,
    collect: Collect,
    add: Add,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, current = (add(str(tmp_path), number, age_s=2 * MIN_AGE_S) for number in range(2))
    register(client, {ID_TAG: current}, alias="champion")
    for version, bundle_id in enumerate((old, current), 1):
        deploy(cluster, tmp_path, bundle_id, version=version)
    add(str(tmp_path), 2, age_s=2 * MIN_AGE_S)
    add(str(tmp_path), 3, age_s=2 * MIN_AGE_S)
    num_writes = cluster.num_writes
    match silent:
        case "cluster":

            def refuse(kind: str, **which: object) -> list[object]:
                raise ClusterError("the API server is away")

            monkeypatch.setattr(cluster, "find", refuse)
            expected = 3, "the API server is away"
        case "no registry":
            (tmp_path / "registry/mlflow.db").unlink()
            expected = 2, "there is no registry"
        case "registry":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            expected = 2, "a request to the registry at http://127.0.0.1:9 failed"
        case _:
            register(client, {}, alias="shadow")
            expected = 2, "'students' version 2 has an alias, but no tag 'bundle_id'"
    before = files(tmp_path)
    settings = tmp_path / "deploy.yaml"
    settings.write_text("hot_s: 0")  # the shards of v1 may go
    code, _, error = collect("-c", str(settings))
    assert code == expected[0]
    assert expected[1] in error
    assert (files(tmp_path), cluster.num_writes) == (before, num_writes)


@pytest.mark.slow
def test_bundles_in_s3_are_removed_too(
    cluster: SimulatedCluster, client: mlflow.MlflowClient, add: Add, bucket: str, tmp_path: Path
) -> None:
    root = f"{bucket}/run"
    old, champion, newest = (add(root, number) for number in range(3))
    register(client, {ID_TAG: champion}, alias="champion")
    registry = Registry.at(str(tmp_path), create=False)
    lines: list[str] = []

    def collect_at(now_s: float) -> list[str]:
        connected = cast(Cluster, cluster)
        collect_bundles(root, name=NAME, cluster=connected, registry=registry, report=lines.append, now_s=now_s)
        return list_folders(layout.bundles(root, NAME))

    assert len(collect_at(time.time())) == 3
    assert set(collect_at(time.time() + 2 * MIN_AGE_S)) == {champion, newest}
    assert lines == [f"{NAME}: no bundle to remove", f"{NAME}: removed bundle {old[:12]}"]
