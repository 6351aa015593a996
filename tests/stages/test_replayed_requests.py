"""A candidate's answers to logged requests, beside its champion's: before a rollout, and by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exfm.artifact.bundle import BundleManifest, find_bundle
from exfm.artifact.storage import Ref, ref_to
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.cli.main import main
from exfm.features.batch import RawIds, encode
from exfm.features.impressions import Answered
from exfm.features.request import RawRequest
from exfm.metrics.intervals import Interval
from exfm.models.scoring import UnshardedScorer
from exfm.registry.champion import promote
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures, verdict
from exfm.registry.registration import register
from exfm.registry.replay import Replay, ReplayConfig, TaskReplay, checks, with_replay
from exfm.registry.replaying import Rankings, compare, newest_requests, replay
from exfm.schema import Schema
from exfm_components.deployment import Candidate, Result, deploy_models, to_markdown
from exfm_components.deployment_config import DeploymentConfig
from logged_requests import random_requests, write_log
from simulated_cluster import SimulatedCluster

NAME = "search-ads"
HOUR_NS = 3_600 * 10**9


def rankings(*sizes: int) -> Rankings:
    return Rankings(np.repeat(np.arange(len(sizes)), sizes), np.array(sizes))


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_two_orders_by_hand() -> None:
    champions = np.linspace(0.9, 0.1, 12).astype(np.float32)  # one request with twelve candidates: best are 0 to 9
    own = champions.copy()
    own[[9, 10]] = own[[10, 9]]  # the tenth place changes
    found = compare("click", np.append(own, scores(0.5, 0.4)), np.append(champions, scores(0.6, 0.4)), rankings(12, 2))
    assert found.top_ten_change == pytest.approx(0.1), "of the one request with more than ten candidates"
    assert found.reordered == 0.5
    assert found.mean_shift == pytest.approx((2 * (champions[9] - champions[10]) + 0.1) / 14, rel=1e-5)
    assert found.p99_shift == pytest.approx(0.1, abs=0.004)


def test_below_the_top_ten_order_does_not_count() -> None:
    champions = np.linspace(0.9, 0.1, 12).astype(np.float32)
    own = champions.copy()
    own[[10, 11]] = own[[11, 10]]
    found = compare("click", own, champions, rankings(12))
    assert (found.top_ten_change, found.reordered) == (0, 0)
    assert found.mean_shift
    assert found.mean_shift > 0


def test_equal_scores_keep_the_order_of_the_request() -> None:
    found = compare("click", scores(0.5, 0.5, 0.5), scores(0.7, 0.6, 0.5), rankings(3))
    assert found.reordered == 0


def test_what_requests_do_not_define_is_no_figure() -> None:
    found = compare("click", scores(0.5, 0.5), scores(0.7, 0.6), rankings(1, 1))
    assert (found.top_ten_change, found.reordered) == (None, None)
    assert found.mean_shift == pytest.approx(0.15)


def test_a_request_of_several_users_has_a_ranking_for_each() -> None:
    found = Rankings.of(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 0, 0]))
    assert found.ranking_N.tolist() == [0, 0, 1, 2, 2, 3]
    assert found.sizes_L.tolist() == [2, 1, 2, 1]


JUDGED = verdict(
    Judgement(
        name=NAME, champion=1, num_new_windows=1, windows=(7,),
        tasks=(TaskFigures(task="click", num_examples=9, num_positives=5, calibration=1, excess_loss=-1),),
    ),
    PromotionRule(),
)  # fmt: skip
FOUND = Replay(
    num_requests=2, num_scores=30, first="1", last="2",
    tasks=(TaskReplay(task="click", not_numbers=0, top_ten_change=0.3, reordered=0.5, mean_shift=0.1, p99_shift=0.2),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "failed"),
    [
        ({}, []),
        ({"max_top_ten_change": 0.29}, ["change of the top ten"]),
        ({"max_top_ten_change": 0.3, "max_reordered": 0.5, "max_score_shift": 0.1}, []),
        ({"max_reordered": 0.49}, ["requests in another order"]),
        ({"max_score_shift": 0.09}, ["mean shift of scores"]),
    ],
)
def test_each_figure_of_a_replay_is_held_against_its_bound(bounds: dict[str, float], failed: list[str]) -> None:
    found = with_replay(JUDGED, FOUND, ReplayConfig.model_validate(bounds))
    assert [check.figure for check in found.checks if not check.passed] == failed
    assert found.outcome == ("refused" if failed else "passed")
    assert str(found).endswith("2 requests of 1 to 2 were replayed, with 30 candidates")


def test_a_bound_that_cannot_be_checked_refuses_and_without_bounds_the_reason_is_told() -> None:
    away = Replay(problem="the log is away")
    told = with_replay(JUDGED, away, ReplayConfig())
    assert told.outcome == "passed"
    assert str(told).endswith("no request was replayed: the log is away")
    refused = with_replay(JUDGED, away, ReplayConfig(max_reordered=0.5))
    assert refused.outcome == "refused"
    assert "all tasks: requests in another order –, bound 0.5000; no request was replayed" in str(refused)  # noqa: RUF001
    short = FOUND.model_copy(update={"tasks": (FOUND.tasks[0].model_copy(update={"top_ten_change": None}),)})
    assert with_replay(JUDGED, short, ReplayConfig()).outcome == "passed"
    assert with_replay(JUDGED, short, ReplayConfig(max_top_ten_change=0.5)).outcome == "refused"


def test_a_score_that_is_no_number_refuses_whatever_the_bounds() -> None:
    found = compare("click", scores(0.5, np.nan), scores(0.7, 0.6), rankings(2))
    broken = FOUND.model_copy(update={"tasks": (found,)})
    assert [check.value for check in checks(broken, ReplayConfig())] == [0.5]
    assert with_replay(JUDGED, broken, ReplayConfig()).outcome == "refused"


@pytest.fixture(scope="session")
def earlier(before: Ref, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    """Return the bundle of the model before its last window."""
    return bundle_of(before, tmp_path_factory.mktemp("earlier"))


def bundle_of(vertical: Ref, out: Path) -> Ref:
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(out))
    return ref_to(find_bundle(str(out)))


@pytest.fixture
def requests(bundle: Ref) -> list[Answered]:
    schema = BundleManifest.read(Path(bundle.uri)).feature_schema
    drawn = random_requests(schema, 30, seed=1, first_ns=495_000 * HOUR_NS, most_candidates=20)
    return [replace(one, raw=of_domain(one.raw, schema)) for one in drawn]


def of_domain(raw: RawRequest, schema: Schema) -> RawRequest:
    """Return a request that names its domain: a log fills it in where it is missing, and scores differ then."""
    columns = dict(raw.columns)
    for net, of_net in raw.columns.items():
        if schema.domain in of_net.sparse:
            named = RawIds(np.full(of_net.num_rows, "search", dtype=object), np.ones(of_net.num_rows, dtype=np.int64))
            columns[net] = replace(of_net, sparse={**of_net.sparse, schema.domain: named})
    return replace(raw, columns=columns)


@pytest.fixture
def log(bundle: Ref, requests: list[Answered], tmp_path: Path) -> str:
    """Return a place with a log of two files, as exporters leave it."""
    schema = BundleManifest.read(Path(bundle.uri)).feature_schema
    write_log(tmp_path / "log" / NAME, schema, [requests[:10], requests[10:15]], [requests[15:]], model=NAME)
    return str(tmp_path / "log")


@pytest.mark.slow
def test_a_replay_scores_requests_as_servers_do(bundle: Ref, earlier: Ref, log: str, requests: list[Answered]) -> None:
    found = replay(Path(bundle.uri), Path(earlier.uri), ReplayConfig(log=log))
    assert not found.problem
    assert found.num_requests == 30
    scorers = [UnshardedScorer.load(Path(ref.uri)) for ref in (bundle, earlier)]
    schema = scorers[0].manifest.feature_schema
    own, champions = (
        np.concatenate(
            [
                scorer.scores(encode(one.raw.columns, schema, num_candidates=one.raw.num_candidates))[:, 0]
                for one in requests
            ]
        )
        for scorer in scorers
    )
    [task] = found.tasks
    expected = compare("click", own, champions, rankings(*np.concatenate([one.raw.num_candidates for one in requests])))
    assert task.mean_shift == pytest.approx(expected.mean_shift, abs=1e-6)
    assert (task.top_ten_change, task.reordered) == pytest.approx((expected.top_ten_change, expected.reordered))
    assert task.mean_shift
    assert task.reordered


@pytest.mark.slow
def test_the_newest_requests_of_a_model_are_replayed(bundle: Ref, log: str, requests: list[Answered]) -> None:
    schema = BundleManifest.read(Path(bundle.uri)).feature_schema
    rows = newest_requests(log, NAME, [schema], most=18)  # the newest file has fifteen
    ids = rows[schema.impression_key].to_pylist()
    assert list(dict.fromkeys(id_.rpartition("-")[0] for id_ in ids)) == [one.id for one in requests[12:]]
    assert len(ids) == sum(int(one.raw.num_candidates.sum()) for one in requests[12:])


@pytest.mark.slow
def test_a_log_that_cannot_be_replayed_is_told_in_one_line(
    bundle: Ref, earlier: Ref, log: str, requests: list[Answered], tmp_path: Path
) -> None:
    def problem(place: str) -> str:
        return replay(Path(bundle.uri), Path(earlier.uri), ReplayConfig(log=place)).problem

    schema = BundleManifest.read(Path(bundle.uri)).feature_schema
    assert "0 Parquet files and no request of search-ads" in problem(str(tmp_path / "none"))
    write_log(tmp_path / "others" / NAME, schema, [requests], model="another")
    assert "1 Parquet files and no request of search-ads" in problem(str(tmp_path / "others"))
    newest = tmp_path / "log" / NAME / "impressions" / "impressions-9999.parquet"
    lacking = schema.select(features=[name for name in schema.feature_names() if name != "ad_id"])
    write_log(tmp_path / "lacking" / NAME, lacking, [requests], model=NAME)
    assert "column 'ad_id' is missing" in problem(str(tmp_path / "lacking"))
    newest.write_bytes(b"no Parquet")
    assert "impressions-9999.parquet: no Parquet file that can be read" in problem(log)


@pytest.mark.slow
def test_a_file_with_other_columns_ends_the_search(bundle: Ref, requests: list[Answered], tmp_path: Path) -> None:
    schema = BundleManifest.read(Path(bundle.uri)).feature_schema
    lacking = schema.select(features=[name for name in schema.feature_names() if name != "ad_id"])
    older = write_log(tmp_path / "older", lacking, [requests[:10]], model=NAME)
    newer = write_log(tmp_path / "log" / NAME, schema, [requests[10:]], model=NAME)
    (newer / "impressions" / "impressions-0000.parquet").rename(newer / "impressions" / "impressions-0001.parquet")
    (older / "impressions" / "impressions-0000.parquet").rename(newer / "impressions" / "impressions-0000.parquet")
    rows = newest_requests(str(tmp_path / "log"), NAME, [schema], most=30)
    assert len(rows) == sum(int(one.raw.num_candidates.sum()) for one in requests[10:])


@pytest.mark.slow
def test_replay_by_hand_prints_the_figures(
    bundle: Ref, log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["exfm", "replay", bundle.uri, bundle.uri, "--log", log])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "requests in another order  0.0000" in printed
    assert "30 requests of 2026-06-21 00:00 UTC to" in printed


GOOD = TaskFigures(
    task="click", num_examples=1000, num_positives=500, normalized_entropy=0.9, calibration=1.02, champion_entropy=0.9,
    champion_calibration=1.0, ne_increase=Interval(value=0, low=-0.01, high=0.01), excess_loss=-0.07,
    excess_loss_error=0.01,
)  # fmt: skip


@pytest.fixture
def candidate(registry: Registry, before: Ref, vertical: Ref, earlier: Ref, bundle: Ref) -> Candidate:
    """Return a version that passed against a champion, which is there."""
    first = GOOD.model_copy(update={"champion_entropy": None, "champion_calibration": None, "ne_increase": None})
    judgement = Judgement(name=NAME, num_new_windows=1, windows=(7,), tasks=(first,))
    champion = register(registry, model=before, bundle=earlier, judgement=judgement)
    promote(registry, NAME, int(champion.version), PromotionRule())
    judgement = Judgement(name=NAME, champion=1, num_new_windows=1, windows=(8,), tasks=(GOOD,))
    return Candidate(register(registry, model=vertical, bundle=bundle, judgement=judgement), judgement)


def deploy(candidate: Candidate, *, root: Path, lines: list[str], **replay: object) -> Result:
    config = DeploymentConfig.parse({"served_root": "pvc://models/root", "replay": replay}, source="test")
    placed = candidate.registration.model_copy(update={"place": candidate.registration.bundle.uri})
    [result] = deploy_models(
        [replace(candidate, registration=placed)], root=str(root), config=config, report=lines.append
    )
    return result


@pytest.mark.slow
def test_requests_are_replayed_before_a_rollout(
    cluster: SimulatedCluster, candidate: Candidate, log: str, tmp_path: Path
) -> None:
    lines: list[str] = []
    refused = deploy(candidate, root=tmp_path, lines=lines, log=log, max_score_shift=0)
    assert refused.outcome == "refused"
    assert "mean shift of scores" in refused.text
    assert cluster.num_writes == 0
    page = to_markdown([refused])
    assert "| click | mean shift of scores |" in page
    assert "30 requests of" in page
    assert lines[0].startswith("search-ads v2: 30 requests of")
    served = deploy(candidate, root=tmp_path, lines=lines, log=log)
    assert served.outcome == "serves"
    assert "| click | change of the top ten |" in to_markdown([served])


@pytest.mark.slow
def test_an_absent_log_stops_a_rollout_only_if_there_is_a_bound(
    cluster: SimulatedCluster, candidate: Candidate, tmp_path: Path
) -> None:
    lines: list[str] = []
    away = str(tmp_path / "away")
    refused = deploy(candidate, root=tmp_path, lines=lines, log=away, max_reordered=0.5)
    assert refused.outcome == "refused"
    assert "no request of search-ads" in refused.text
    assert deploy(candidate, root=tmp_path, lines=lines, log=away).outcome == "serves"
    assert "search-ads v2: no request was replayed" in lines[1]


def test_the_place_of_a_log_starts_at_the_runs_file(tmp_path: Path) -> None:
    def place(log: str) -> str:
        config = DeploymentConfig.parse({"replay": {"log": log}}, source="test")
        return config.resolved(tmp_path).replay.log

    assert place("requests") == str(tmp_path / "requests")
    assert place("s3://bucket/requests") == "s3://bucket/requests"
    assert place("") == "", "no replay"
