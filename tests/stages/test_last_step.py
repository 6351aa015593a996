"""The pipeline's last step: what passes is deployed, and takes the champion's place."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exfm.artifact.bundle import find_bundle
from exfm.artifact.storage import Ref, ref_to
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.errors import ConfigError, StageError
from exfm.registry.champion import champion_of, promote
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures
from exfm.registry.registration import register
from exfm.registry.standing import standing
from exfm_components.deployment import Candidate, Result, deploy_models, readable_uri, require_deployed, to_markdown
from exfm_components.deployment_config import DeploymentConfig
from simulated_cluster import SimulatedCluster

pytestmark = pytest.mark.slow

GOOD = TaskFigures(
    task="click", num_examples=1000, num_positives=500, normalized_entropy=0.9, calibration=1.02,
    excess_loss=-0.07, excess_loss_error=0.01,
)  # fmt: skip
PASSED = Judgement(name="search-ads", num_new_windows=1, windows=(7,), tasks=(GOOD,))
"""Of a first version."""


@pytest.fixture
def candidate(tmp_path: Path, registry: Registry, vertical: Ref, bundle: Ref) -> Candidate:
    """A first version, whose bundle lies below the root."""
    own = tmp_path / "bundle" / "search-ads" / Path(bundle.uri).name
    shutil.copytree(bundle.uri, own)
    lying = Ref(uri=str(own), digest=bundle.digest)
    return Candidate(register(registry, model=vertical, bundle=lying, judgement=PASSED), PASSED)


def deploy(root: Path, *candidates: Candidate) -> list[Result]:
    config = DeploymentConfig.parse({"served_root": "pvc://models/root"}, source="test")
    return deploy_models(candidates, root=str(root), config=config, report=lambda line: None)


def test_a_version_that_passes_serves_from_where_it_lies_and_becomes_champion(
    cluster: SimulatedCluster, tmp_path: Path, registry: Registry, candidate: Candidate
) -> None:
    [result] = deploy(tmp_path, candidate)
    assert (result.name, result.version, result.outcome) == ("search-ads", 1, "serves")
    assert str(result) == "search-ads v1 serves"
    require_deployed([result])
    assert standing(registry, "search-ads") == "search-ads: v1 is the champion"
    assert int(registry.resolve("models:/search-ads@champion").version) == 1
    assert cluster.ready_rankers() == [1, 1]
    shard = cluster.objects["InferenceService", "search-ads-v1-s0"]["spec"]["predictor"]["model"]
    assert shard["storageUri"].startswith(
        f"pvc://models/root/bundle/search-ads/{Path(candidate.registration.place).name}"
    )


@pytest.mark.parametrize(
    ("judgement", "outcome", "why"),
    [
        (PASSED.model_copy(update={"tasks": (GOOD.model_copy(update={"calibration": 1.3}),)}), "refused", "0.3000"),
    ],
)
def test_a_version_that_does_not_pass_is_not_deployed_and_the_page_says_why(
    cluster: SimulatedCluster,
    tmp_path: Path,
    registry: Registry,
    candidate: Candidate,
    judgement: Judgement,
    outcome: str,
    why: str,
) -> None:
    assert standing(registry, "search-ads") == "search-ads: no champion; v1 is a candidate"
    [result] = results = deploy(tmp_path, replace(candidate, judgement=judgement))
    assert result.outcome == outcome
    assert why in result.text
    assert f" {outcome} | search-ads | v1 | {result.text} |" in to_markdown(results)
    assert str(result).startswith("search-ads v1 is not deployed (")
    assert standing(registry, "search-ads") == f"search-ads: no champion; {result}"
    assert cluster.num_writes == 0
    require_deployed(results)  # a refusal is no failure


NOTHING_NEW = Judgement(name="search-ads", champion=1, num_new_windows=0)


def test_a_champion_with_nothing_newer_is_deployed_only_where_nothing_serves(
    cluster: SimulatedCluster, tmp_path: Path, registry: Registry, candidate: Candidate
) -> None:
    promote(registry, "search-ads", 1, PromotionRule())
    champion = replace(candidate, judgement=NOTHING_NEW)
    [result] = deploy(tmp_path, champion)
    assert (result.outcome, result.text) == ("serves", "no version of it was deployed")
    assert cluster.ready_rankers() == [1, 1]
    writes = cluster.num_writes
    [result] = deploy(tmp_path, champion)
    assert (result.outcome, result.text) == (
        "nothing new",
        "nothing new against v1: no window was learned after the champion's",
    )
    assert cluster.num_writes == writes


def test_a_version_whose_rollout_fails_does_not_become_champion_and_others_go_on(
    cluster: SimulatedCluster, tmp_path: Path, registry: Registry, candidate: Candidate
) -> None:
    cluster.broken[1, "ranker"] = "error: no"
    refused = replace(candidate, judgement=Judgement(name="search-ads", num_new_windows=0))
    results = deploy(tmp_path, candidate, refused)
    assert [result.outcome for result in results] == ["failed", "refused"]
    assert champion_of(registry, "search-ads") is None
    with pytest.raises(StageError, match=r"search-ads v1 is not serving.*; search-ads v1 is not deployed \(refused"):
        require_deployed(results)


def test_an_old_run_that_is_retried_takes_no_later_champion_down(
    cluster: SimulatedCluster, tmp_path: Path, registry: Registry, candidate: Candidate, vertical: Ref
) -> None:
    deploy(tmp_path, candidate)
    make_bundle(BundleConfig(golden_candidates=10), vertical=vertical, out=str(tmp_path / "bundle" / "search-ads"))
    later = ref_to(find_bundle(str(tmp_path / "bundle" / "search-ads")))
    old = register(registry, model=vertical, bundle=later, judgement=PASSED)  # judged before the first was champion
    [result] = deploy(tmp_path, Candidate(old, PASSED))
    assert (result.version, result.outcome) == (2, "refused")
    assert "it was judged against no champion, but v1 is the champion now" in result.text
    assert cluster.ready_rankers() == [1, 1]


@pytest.mark.parametrize(
    ("uris", "served_root", "found"),
    [
        (["s3://a/run/bundle/b", "s3://mlflow/1/bundle"], "", "s3://a/run/bundle/b"),
        (["/root/bundle/b", "s3://mlflow/1/bundle"], "", "s3://mlflow/1/bundle"),
        (["/root/registry/b"], "pvc://claim/runs/1", "pvc://claim/runs/1/registry/b"),
        (["/rooted/b", "/root/bundle/b"], "pvc://claim", "pvc://claim/bundle/b"),
    ],
)
def test_pods_read_a_bundle_from_the_first_place_that_they_can(uris: list[str], served_root: str, found: str) -> None:
    assert readable_uri(uris, root="/root/", served_root=served_root) == found


def test_a_bundle_that_pods_can_read_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pods can read none of /root/b, mlflow-artifacts:/1/b.*served_root"):
        readable_uri(["/root/b", "mlflow-artifacts:/1/b"], root="/root", served_root="")
