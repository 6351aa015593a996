"""Candidates against champions: which windows count, whose predictions, and which bounds."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stream import copied

from exfm.artifact.bundle import find_bundle
from exfm.artifact.storage import Ref, ref_to
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.errors import DataError, PromotionError, StorageError
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.metrics.intervals import Interval
from exfm.metrics.quality import quality
from exfm.models.scoring import UnshardedScorer
from exfm.registry.champion import judgement_of, keep_judgement, promote
from exfm.registry.judging import USER, figures, judge
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures, verdict
from exfm.registry.recorded import MIN_POSITIVES
from exfm.registry.registration import register
from exfm.tables.commit import commit, stage
from exfm.tables.grid import WINDOW
from exfm.tables.reference import TableRef
from exfm.tables.table import Table
from exfm.training.evaluation import predictions_of
from exfm.training.manifest import EXAMPLES, PREDICTIONS, ModelManifest

pytestmark = pytest.mark.slow

RULE = PromotionRule()


def rows(scores: list[float], labels: list[float], *, champion: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {"score.click": scores, "label.click": labels, "champion.click": champion},
        schema=dict.fromkeys(("score.click", "label.click", "champion.click"), pl.Float32),
    ).with_columns(
        pl.lit(1.0, pl.Float32).alias("weight.click"), pl.lit(0.5).alias("base_rate.click"), pl.lit(7).alias(WINDOW)
    )


def test_figures_pool_all_examples() -> None:
    found = figures(rows([0.8, 0.8, 0.2, 0.2], [1, 1, 0, 0], champion=[0.5] * 4), "click", has_champion=True)
    assert (found.num_examples, found.num_positives) == (4, 2)
    assert found.calibration == pytest.approx(1.0)
    assert found.normalized_entropy == pytest.approx(-np.log2(0.8), rel=1e-5)
    assert found.champion_entropy == pytest.approx(1.0)
    assert found.excess_loss == pytest.approx(-np.log(0.8) - np.log(2), rel=1e-5)
    assert found.excess_loss_error == pytest.approx(0, abs=1e-6)


def test_the_increase_is_a_share_of_the_champions_ne_and_users_widen_its_interval() -> None:
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(50), 40)
    labels = (random.random(2000) < 0.3).astype(np.float32)
    champion, own = random.uniform(0.2, 0.4, 2000), np.clip(0.3 + 0.15 * random.standard_normal(50), 0.05, 0.9)[user]
    judged = rows(own.tolist(), labels.tolist(), champion=champion.tolist())
    alone = figures(judged, "click", has_champion=True)
    by_user = figures(judged.with_columns(pl.Series(USER, user)), "click", has_champion=True)
    assert alone.normalized_entropy is not None
    assert alone.champion_entropy is not None
    assert alone.ne_increase is not None
    assert by_user.ne_increase is not None
    assert alone.ne_increase.value == pytest.approx(alone.normalized_entropy / alone.champion_entropy - 1)
    assert alone.ne_increase.low < alone.ne_increase.value < alone.ne_increase.high
    assert by_user.ne_increase.value == alone.ne_increase.value
    labels_of_users = pl.DataFrame({"user": user, "label": labels, "own": own}).group_by("user").mean()
    assert labels_of_users["own"].std(), "users differ, else the next line shows nothing"
    assert _width(by_user.ne_increase) != pytest.approx(_width(alone.ne_increase), rel=0.01)


def _width(interval: Interval) -> float:
    return interval.high - interval.low


def test_an_unknown_label_does_not_count() -> None:
    known = rows([0.8, 0.2], [1, 0], champion=[0.5] * 2)
    unknown = rows([0.1], [float("nan")], champion=[0.9])
    found = figures(pl.concat([known, unknown]), "click", has_champion=True)
    assert found.num_examples == 2
    assert found.excess_loss == pytest.approx(-np.log(0.8) - np.log(2), rel=1e-5)


def test_an_example_counts_by_its_weight() -> None:
    heavy = rows([0.8, 0.2], [1, 0], champion=[0.5] * 2).with_columns(
        pl.Series("weight.click", [3.0, 1.0], dtype=pl.Float32)
    )
    found = figures(heavy, "click", has_champion=False)
    assert found.calibration == pytest.approx((3 * 0.8 + 0.2) / 3)
    assert found.excess_loss == pytest.approx(-np.log(0.8) - np.log(2), rel=1e-5)
    assert found.champion_entropy is None


def test_a_judgement_is_the_same_after_a_pipelines_parameter_which_knows_no_integers_and_no_null() -> None:
    judgement = judged(champion_entropy=None)
    sent = json.loads(json.dumps(judgement.to_dict()), parse_int=float)
    assert "champion_entropy" not in sent["tasks"][0]
    assert sent["tasks"][0]["ne_increase"] == {"value": 0.0, "low": -0.001, "high": 0.001}
    assert Judgement.parse(sent, source="test") == judgement


GOOD = TaskFigures(
    task="click", num_examples=1000, num_positives=500, normalized_entropy=0.9, calibration=1.02,
    champion_entropy=0.9, champion_calibration=1.0, ne_increase=Interval(value=0, low=-0.001, high=0.001),
    excess_loss=-0.07, excess_loss_error=0.01,
)  # fmt: skip


def increased(value: float, *, low: float, high: float) -> dict[str, Interval]:
    return {"ne_increase": Interval(value=value, low=low, high=high)}


def judged(*, champion: int = 3, **changed: object) -> Judgement:
    return Judgement(
        name="one", champion=champion, num_new_windows=1, windows=(7, 8), first_window="84", last_window="96",
        tasks=(GOOD.model_copy(update=changed),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, []),
        (increased(0.001, low=0.0006, high=0.002), ["NE increase beyond chance"]),  # much data: it is known to be worse
        (increased(0.001, low=0.0004, high=0.002), []),  # not known to be worse than what is tolerated
        (increased(0.019, low=-0.01, high=0.05), []),  # few data: chance
        (increased(0.021, low=-0.01, high=0.05), ["estimated NE increase"]),  # chance, but too dear if it is none
        (increased(0.03, low=0.01, high=0.05), ["NE increase beyond chance", "estimated NE increase"]),
        (increased(-0.03, low=-0.05, high=-0.01), []),
        ({"calibration": 0.89}, ["calibration error"]),
        ({"calibration": 1.2, "champion_calibration": 1.3}, []),  # no farther off than the champion on these examples
        ({"calibration": None}, ["calibration error"]),
        ({"ne_increase": None}, ["NE increase beyond chance", "estimated NE increase"]),
        ({"excess_loss": 0.019}, []),  # within two standard errors
        ({"excess_loss": 0.021}, ["loss over the base rate's"]),
        ({"excess_loss": None}, ["loss over the base rate's"]),
        (
            increased(7, low=6, high=8) | {"excess_loss": 4.5},
            ["NE increase beyond chance", "estimated NE increase", "loss over the base rate's"],
        ),
    ],
)
def test_each_figure_is_held_against_its_bound(changed: dict[str, object], failed: list[str]) -> None:
    found = verdict(judged(**changed), RULE)
    assert [check.figure for check in found.checks if not check.passed] == failed
    assert found.outcome == ("refused" if failed else "passed")


def test_a_team_may_tolerate_nothing_or_any_increase_that_chance_explains() -> None:
    tiny, wide = increased(1e-5, low=1e-6, high=2e-5), increased(0.5, low=-0.1, high=1.1)
    assert verdict(judged(**tiny), PromotionRule(max_ne_increase=0)).outcome == "refused"
    assert verdict(judged(**tiny), RULE).outcome == "passed"
    assert verdict(judged(**wide), RULE).outcome == "refused"
    assert verdict(judged(**wide), PromotionRule(max_estimated_ne_increase=1)).outcome == "passed"


def test_a_first_version_meets_the_absolute_bounds() -> None:
    none: dict[str, object] = {"champion_entropy": None, "champion_calibration": None, "ne_increase": None}
    first = judged(champion=0, **none)
    found = verdict(first, RULE)
    assert [check.figure for check in found.checks] == ["calibration error", "loss over the base rate's"]
    assert found.outcome == "passed"
    for changed in ({"calibration": 1.11}, {"excess_loss": 1.0}):
        worse = judged(champion=0, **none, **changed)
        assert verdict(worse, RULE).outcome == "refused"


def test_a_candidate_that_lacks_a_task_of_the_champions_is_refused() -> None:
    found = verdict(judged().model_copy(update={"missing_tasks": ("like",)}), RULE)
    assert found.outcome == "refused"
    assert "like: the champion has this task, the candidate lacks it" in str(found)


def test_a_verdict_is_one_table_of_figure_bound_and_margin() -> None:
    assert verdict(judged(**increased(0.05, low=0.01, high=0.09)), RULE).rows() == [
        ("click", "NE increase beyond chance", "0.0500 [0.0100, 0.0900]", "0.0005", "-0.0095", "✗"),
        ("click", "estimated NE increase", "0.0500", "0.0200", "-0.0300", "✗"),
        ("click", "calibration error", "0.0200", "0.1000", "0.0800", "✓"),
        ("click", "loss over the base rate's", "-0.0700", "0.0200", "0.0900", "✓"),
    ]


def test_nothing_new_is_neither_passed_nor_refused() -> None:
    found = verdict(Judgement(name="one", champion=3, num_new_windows=0), RULE)
    assert found.outcome == "nothing new"
    assert str(found) == "nothing new against v3: no window was learned after the champion's"


def test_a_first_version_that_learned_nothing_after_the_warm_up_is_refused() -> None:
    assert verdict(Judgement(name="one", num_new_windows=0), RULE).outcome == "refused"


def table_of(rows: pl.DataFrame, folder: Path, *, part: str = "") -> TableRef:
    """Return a table of these rows, which have WINDOW."""
    table = Table(str(folder), dict(rows.drop(WINDOW).schema))
    for (window,), of_window in rows.group_by(WINDOW, maintain_order=True):
        assert isinstance(window, int)
        commit(table, [stage(table, of_window, window=window, part=part)], item=f"rows/{window}")
    return TableRef(table=table.uri, version=table.state().version)


def crown(registry: Registry, vertical: Ref, out: Path) -> int:
    """Register a model with its bundle as if it had passed, make it the champion, and return its version."""
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(out))
    passed = judged(champion=0).model_copy(update={"name": "search-ads"})
    registered = register(registry, model=vertical, bundle=ref_to(find_bundle(str(out))), judgement=passed)
    promote(registry, registered.name, int(registered.version), RULE)
    return int(registered.version)


def test_a_first_version_is_judged_on_all_windows_that_it_learned_after_the_warm_up(
    registry: Registry, vertical: Ref
) -> None:
    model = ModelManifest.read(Path(vertical.uri))
    found = judge(registry, [vertical])[0]
    assert found.champion == 0
    assert found.windows == tuple(window.index for window in model.counted)
    predicted = recorded(vertical, found.windows)
    expected = quality(*(predicted[f"{kind}.click"].to_numpy() for kind in ("score", "label", "weight")))
    [task] = found.tasks
    assert task.num_examples == predicted.height
    assert task.normalized_entropy == pytest.approx(expected.normalized_entropy)
    assert task.champion_entropy is None
    assert task.excess_loss is not None


def test_later_versions_are_judged_on_what_the_champion_had_not_learned(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    version = crown(registry, before, tmp_path / "bundles")
    champion, candidate = (ModelManifest.read(Path(ref.uri)) for ref in (before, vertical))
    new = [w.index for w in candidate.windows if w.start >= champion.learned_until]
    found = judge(registry, [vertical])[0]
    assert (found.champion, found.num_new_windows) == (version, len(new))
    assert found.windows[-len(new) :] == tuple(new)
    predicted = recorded(vertical, found.windows)
    [task] = found.tasks
    assert task.num_positives == int((predicted["label.click"] > 0).sum())
    older = [w for w in found.windows if w not in new]
    positives_of_new = int((recorded(vertical, new)["label.click"] > 0).sum())
    assert positives_of_new < MIN_POSITIVES, "else the next lines show nothing"
    assert older
    assert task.num_positives >= MIN_POSITIVES
    without_first = recorded(vertical, found.windows[1:])
    assert int((without_first["label.click"] > 0).sum()) < MIN_POSITIVES, "no window more than is needed"


def test_the_champions_figures_are_its_bundles_on_new_windows_and_its_own_records_on_older_ones(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    crown(registry, before, tmp_path / "bundles")
    found = judge(registry, [vertical])[0]
    candidate = ModelManifest.read(Path(vertical.uri))
    new = found.windows[-found.num_new_windows :]
    own = recorded(before, [w for w in found.windows if w not in new])
    scorer = UnshardedScorer.load(Path(find_bundle(str(tmp_path / "bundles"))))
    scores, labels = [own["score.click"].to_numpy()], [own["label.click"].to_numpy()]
    for window in (w for w in candidate.windows if w.index in new):
        frame = candidate.examples().read(window).filter(pl.col("segment") == "search")
        schema = scorer.manifest.feature_schema
        scores.append(scorer.scores(encode_examples(raw_columns(frame.to_arrow(), schema), schema))[:, 0])
        labels.append(frame["label.click"].cast(pl.Float32).to_numpy())
    expected = quality(np.concatenate(scores), np.concatenate(labels), np.ones(sum(map(len, labels)), np.float32))
    [task] = found.tasks
    assert task.champion_entropy == pytest.approx(expected.normalized_entropy, rel=1e-5)
    assert task.champion_calibration == pytest.approx(expected.calibration, rel=1e-5)
    assert task.normalized_entropy is not None
    assert task.champion_entropy is not None
    assert task.ne_increase is not None
    assert task.ne_increase.value == pytest.approx(task.normalized_entropy / task.champion_entropy - 1, abs=1e-9)


def test_the_interval_draws_users_where_the_log_has_them(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    crown(registry, before, tmp_path / "bundles")
    schema = ModelManifest.read(Path(vertical.uri)).feature_schema
    assert schema.user
    without = copied(vertical, tmp_path / "without", feature_schema=schema.model_copy(update={"user": ""}))
    [by_user], [alone] = (judge(registry, [model])[0].tasks for model in (vertical, without))
    assert by_user.ne_increase is not None
    assert alone.ne_increase is not None
    assert by_user.ne_increase.value == alone.ne_increase.value
    assert by_user.ne_increase != alone.ne_increase


def test_a_version_that_an_earlier_release_judged_is_refused_but_its_champion_stays(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    version = crown(registry, before, tmp_path / "bundles")
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(tmp_path / "later"))
    old = judged(champion=version, ne_increase=None).model_copy(update={"name": "search-ads"})
    later = register(registry, model=vertical, bundle=ref_to(find_bundle(str(tmp_path / "later"))), judgement=old)
    with pytest.raises(PromotionError, match=r"an earlier release of exfm judged it.*run the pipeline again"):
        promote(registry, "search-ads", int(later.version), RULE)
    keep_judgement(registry, registry.version("search-ads", version), old, recorded=recorded(before, [7]))
    assert promote(registry, "search-ads", version, RULE), "the champion is deployed again, whoever judged it"


def test_the_champions_own_run_again_has_nothing_new_and_registers_nothing(
    registry: Registry, before: Ref, tmp_path: Path
) -> None:
    version = crown(registry, before, tmp_path / "bundles")
    judgement = judge(registry, [before])[0]
    assert verdict(judgement, RULE).outcome == "nothing new"
    bundle = ref_to(find_bundle(str(tmp_path / "bundles")))
    again = register(registry, model=before, bundle=bundle, judgement=judgement)
    assert (int(again.version), again.aliases) == (version, ("candidate", "champion"))
    with pytest.raises(StorageError, match="no version 2"):
        judgement_of(registry, "search-ads", 2)


def test_a_candidate_that_fails_on_the_new_windows_alone_is_refused(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    crown(registry, before, tmp_path / "bundles")
    model = ModelManifest.read(Path(vertical.uri))
    wrong = (1 - pl.col("label.click")).clip(1e-6, 1 - 1e-6).cast(pl.Float32)
    is_last = pl.col(WINDOW) == model.windows[-1].index
    scores = pl.when(is_last).then(wrong).otherwise("score.click").alias("score.click")
    rows = predictions_of(model, model.windows).with_columns(scores)
    tables = model.tables | {PREDICTIONS: table_of(rows, tmp_path / "predictions", part=model.line)}
    broken = copied(vertical, tmp_path / "broken", tables=tables)
    found = verdict(judge(registry, [broken])[0], RULE)
    assert found.outcome == "refused"
    assert {check.figure for check in found.checks if not check.passed} >= {
        "NE increase beyond chance",
        "estimated NE increase",
        "loss over the base rate's",
    }


def test_a_version_that_was_judged_against_another_champion_is_not_promoted(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(tmp_path / "first"))
    first = judge(registry, [vertical])[0]  # no champion yet
    bundle = ref_to(find_bundle(str(tmp_path / "first")))
    registered = register(registry, model=vertical, bundle=bundle, judgement=first)
    assert registered.aliases == ("candidate",), "nothing is crowned unseen"
    champion = crown(registry, before, tmp_path / "bundles")
    with pytest.raises(PromotionError, match=f"was judged against no champion, but v{champion} is the champion now"):
        promote(registry, "search-ads", int(registered.version), RULE)
    assert promote(registry, "search-ads", champion, RULE), "the champion stays champion, whatever the rule"


def test_a_champion_that_needs_what_the_examples_lack_is_named(
    registry: Registry, before: Ref, vertical: Ref, tmp_path: Path
) -> None:
    crown(registry, before, tmp_path / "bundles")
    model = ModelManifest.read(Path(vertical.uri))
    examples = model.examples()
    rows = pl.concat(
        examples.read(window).drop("ad_id").with_columns(pl.lit(window.index).alias(WINDOW)) for window in model.windows
    )
    tables = model.tables | {EXAMPLES: table_of(rows, tmp_path / "examples")}
    without = copied(vertical, tmp_path / "without", tables=tables)
    with pytest.raises(DataError, match=r"search-ads v1, the champion, cannot score .*column 'ad_id' is missing"):
        judge(registry, [without])


def test_the_same_bundle_is_registered_once(registry: Registry, vertical: Ref, tmp_path: Path) -> None:
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(tmp_path / "bundles"))
    bundle, judgement = ref_to(find_bundle(str(tmp_path / "bundles"))), judge(registry, [vertical])[0]
    first, again = (register(registry, model=vertical, bundle=bundle, judgement=judgement) for _ in range(2))
    assert first == again


def recorded(vertical: Ref, windows: Collection[int]) -> pl.DataFrame:
    model = ModelManifest.read(Path(vertical.uri))
    return predictions_of(model, [window for window in model.windows if window.index in windows])
