"""Foundation models in MLflow."""

import json
from pathlib import Path

import pytest
from stream import Stream, copied

from exfm.artifact.storage import Ref
from exfm.errors import ConfigError, DataError
from exfm.registry.champion import promote
from exfm.registry.foundations import FoundationVersion, manifest_of, register_foundation, register_foundations
from exfm.registry.lineage import lineage_of
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import PromotionRule
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, stream: Stream, foundation: Ref) -> Registry:
    """Return a registry with one version of the foundation model."""
    registry = Registry.at(str(tmp_path_factory.mktemp("registry")), create=True)
    added = register_foundation(registry, model=foundation, root=stream.das.root)
    assert added == FoundationVersion("fm", 1, is_new=True)
    return registry


@pytest.fixture(scope="module")
def trained(foundation: Ref) -> ModelManifest:
    return ModelManifest.read(Path(foundation.uri))


def test_a_version_says_which_state_it_is_and_what_that_learned(
    registry: Registry, stream: Stream, foundation: Ref, trained: ModelManifest
) -> None:
    version, newest, before = registry.version("fm", 1), trained.snapshots[-1], trained.snapshots[-2]
    labels = stream.das.table("labels", {}).state()
    expected = {
        "kind": "foundation", "state": newest.version, "state_digest": newest.digest,
        "parent_state": before.version, "learned_until": str(trained.learned_until), "exfm_root": stream.das.root,
        "manifest_uri": foundation.uri, "manifest_digest": foundation.digest, "labels": f"version {labels.version}",
        "predictions": f"version {trained.tables['predictions'].version}",
    }  # fmt: skip
    assert {tag: version.tags.get(tag) for tag in expected} == expected
    assert version.aliases == []
    assert "| click | fm |" in version.description


def test_its_run_has_figures_tables_and_the_manifest_with_its_reference(
    registry: Registry, foundation: Ref, trained: ModelManifest
) -> None:
    run = registry.client.get_run(registry.version("fm", 1).run_id)
    assert run.data.metrics["click.normalized_entropy"] == trained.overall["click"].normalized_entropy
    assert "click.normalized_entropy.base_rate" in run.data.metrics
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"impressions", "labels", "predictions"}
    assert manifest_of(registry, registry.version("fm", 1)) == trained
    reference = registry.client.download_artifacts(run.info.run_id, "foundation/reference.json")
    assert json.loads(Path(reference).read_text()) == foundation.to_dict()


def test_a_state_has_one_version_and_a_newer_one_another(
    registry: Registry, stream: Stream, foundation: Ref, trained: ModelManifest, tmp_path: Path
) -> None:
    root = stream.das.root
    again = register_foundation(registry, model=foundation, root=root)
    assert again == FoundationVersion("fm", 1, is_new=False)
    earlier = copied(foundation, tmp_path / "fm", snapshots=trained.snapshots[:-1])
    other = Registry.at(str(tmp_path), create=True)
    assert [str(register_foundation(other, model=model, root=root)) for model in (earlier, foundation, foundation)] == [
        "fm v1",
        "fm v2",
        "fm: nothing new",
    ]
    assert other.version("fm", 2).tags["parent_state"] == other.version("fm", 1).tags["state"]


def test_a_state_of_another_root_is_refused(foundation: Ref, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no table there has the state fm-"):
        register_foundations(root=str(tmp_path), models=[foundation])


def test_it_is_traced_to_its_labels(registry: Registry, trained: ModelManifest) -> None:
    traced = lineage_of(
        "models:/fm/1", root=registry.uri.removeprefix("sqlite:///").removesuffix("/registry/mlflow.db")
    )
    assert traced.text.startswith("fm version 1: foundation model, commit ")
    [state] = traced.made_from
    assert state.text.startswith(f"state {trained.snapshots[-1].version}: learned ")
    labels, parent = state.made_from
    assert labels.text.startswith("labels of ")
    assert parent.text == f"state {trained.snapshots[-2].version}, its parent"


def test_it_is_never_served_nor_promoted(registry: Registry) -> None:
    for use in (
        lambda: registry.resolve("models:/fm@champion"),
        lambda: registry.bundle_of(registry.resolve("models:/fm/1")),
        lambda: promote(registry, "fm", 1, PromotionRule()),
    ):
        with pytest.raises(ConfigError, match=r"^'fm' is a foundation model: it teaches vertical models, and has no"):
            use()


def test_a_vertical_and_a_foundation_model_never_share_a_name(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="has 'fm' as a foundation model, so no vertical model can have this name"):
        registry.claim("fm", is_foundation=False)
    registry.claim("fm", is_foundation=True)
    registry.claim("shop", is_foundation=False)
    with pytest.raises(ConfigError, match="has 'shop' as a vertical model, so no foundation model can have this name"):
        registry.claim("shop", is_foundation=True)
