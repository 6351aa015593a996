from pathlib import Path

import numpy as np
import polars as pl
import pytest

from exfm.errors import ConfigError
from exfm.events.acceptance import sort_out_feedback, sort_out_impressions
from exfm.events.synthetic import (
    CLICK_LOGITS,
    MATCH_LOGIT,
    NUM_LATENT,
    SEGMENTS,
    SyntheticSource,
    load_synthetic,
)
from exfm.schema import Schema

SCHEMA = Schema.read(Path(__file__).parents[2] / "examples" / "synthetic" / "schema.yaml")
SOURCE = SyntheticSource(num_impressions=50_000, num_users=500, num_ads=200)


@pytest.fixture(scope="module")
def labelled() -> pl.DataFrame:
    """The impressions of SOURCE with what was drawn for each."""
    log = load_synthetic(SOURCE)
    return _with_labels(log.impressions, log.feedback)


def _with_labels(impressions: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    drawn = [
        pl.col("impression_id").is_in(feedback.filter(pl.col("kind") == kind)["impression_id"].implode()).alias(kind)
        for kind in ("click", "conversion")
    ]
    return impressions.with_columns(drawn)


def _calibration(rows: pl.DataFrame, task: str) -> float:
    """Return the labels' sum over the truth's, less 1, in standard deviations of the labels' sum."""
    truth = rows[f"truth_{task}"]
    return float((rows[task].sum() - truth.sum()) / np.sqrt((truth * (1 - truth)).sum()))


@pytest.mark.parametrize("task", ["click", "conversion"])
def test_the_truth_is_the_rate_of_the_label(labelled: pl.DataFrame, task: str) -> None:
    truth = labelled[f"truth_{task}"]
    assert abs(_calibration(labelled, task)) < 4
    assert abs(_calibration(labelled.filter(truth < truth.median()), task)) < 4
    assert abs(_calibration(labelled.filter(truth > truth.quantile(0.9)), task)) < 4


def test_a_conversion_follows_a_click() -> None:
    feedback = load_synthetic(SOURCE).feedback.filter(pl.col("impression_id") >= 0)
    first = feedback.group_by("impression_id", "kind").agg(pl.col("event_time_s").min())
    both = first.pivot(on="kind", index="impression_id").filter(pl.col("conversion").is_not_null())
    assert both["click"].null_count() == 0
    assert (both["conversion"] >= both["click"]).all()
    assert both.height > 1000


def test_segments_click_at_different_rates(labelled: pl.DataFrame) -> None:
    rates = dict(labelled.group_by("segment").agg(pl.col("click").mean()).rows())
    assert set(rates) == set(SEGMENTS)
    assert rates["search"] > 1.3 * rates["feed"] > 1.3 * 1.3 * rates["video"]


def test_users_are_shown_ads_in_several_segments(labelled: pl.DataFrame) -> None:
    segments = labelled.group_by("user_id").agg(pl.col("segment").n_unique(), pl.len()).filter(pl.col("len") > 50)
    assert segments.height > 100
    assert (segments["segment"] == len(SEGMENTS)).all()


def test_what_one_segment_tells_of_a_user_or_an_ad_holds_in_others(labelled: pl.DataFrame) -> None:
    logit = (pl.col("truth_click") / (1 - pl.col("truth_click"))).log()
    for id_, least in (("user_id", 0.8), ("ad_id", 0.8)):
        means = [
            labelled.filter(pl.col("segment") == segment).group_by(id_).agg(logit.mean().alias(segment), pl.len())
            for segment in SEGMENTS[:2]
        ]
        both = means[0].filter(pl.col("len") > 20).join(means[1].filter(pl.col("len") > 20), on=id_)
        assert both.height > 30
        assert both.select(pl.corr(*SEGMENTS[:2])).item() > least


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_share_of_taste_is_another_in_each_segment(share: float) -> None:
    log = load_synthetic(SOURCE.model_copy(update={"segment_taste": share}))
    pair = ["user_id", "ad_id"]
    logit = (pl.col("truth_click") / (1 - pl.col("truth_click"))).log()
    in_segment = [
        log.impressions.filter(pl.col("segment") == segment).unique(pair).select(*pair, logit.alias(segment))
        for segment in SEGMENTS[:2]
    ]
    both = in_segment[0].join(in_segment[1], on=pair)
    differences = both[SEGMENTS[0]] - both[SEGMENTS[1]]
    assert both.height > 1000
    assert differences.mean() == pytest.approx(CLICK_LOGITS[0] - CLICK_LOGITS[1], abs=0.05)
    # Two turned parts of a taste are alike by chance only, so their difference has twice a part's variance.
    expected = MATCH_LOGIT * np.sqrt(2 * share / NUM_LATENT)
    assert differences.std() == pytest.approx(expected, rel=0.2, abs=1e-4)


def test_popular_ads_are_shown_more(labelled: pl.DataFrame) -> None:
    counts = labelled["ad_id"].value_counts(sort=True)["count"]
    assert counts[0] > 5 * counts[100]


def test_clicked_ads_are_the_users_earlier_clicks(labelled: pl.DataFrame) -> None:
    histories = labelled.select("user_id", "clicked_ads").explode("clicked_ads", empty_as_null=False).unique()
    clicks = labelled.filter("click").select("user_id", pl.col("ad_id").alias("clicked_ads"))
    assert histories.height > 1000
    assert histories.join(clicks, on=["user_id", "clicked_ads"], how="anti").is_empty()


def test_the_same_seed_gives_the_same_synthetic_log() -> None:
    small = SyntheticSource(num_impressions=2_000, num_users=50, num_ads=50)
    first, second = load_synthetic(small), load_synthetic(small)
    other = load_synthetic(small.model_copy(update={"seed": 1}))
    assert first.impressions.equals(second.impressions)
    assert first.feedback.equals(second.feedback)
    assert not first.impressions.equals(other.impressions)


def test_the_stream_fits_the_schema_of_the_example() -> None:
    log = load_synthetic(SyntheticSource(num_impressions=2_000, num_users=50, num_ads=50))
    assert sort_out_impressions(log.impressions, SCHEMA, of="impressions").accepted.height == 2_000
    assert sort_out_feedback(log.feedback, SCHEMA, of="feedback").rejected.is_empty()


def test_impressions_come_at_the_same_rate_for_four_weeks() -> None:
    times_s = load_synthetic(SyntheticSource(num_impressions=2_000, num_users=50, num_ads=50)).impressions[
        "event_time_s"
    ]
    weeks = ((times_s - times_s.min()) // (7 * 86_400)).value_counts()
    assert weeks.filter(pl.col("count") > 400).height == 4


def test_left_out_negatives_are_made_up_for_by_their_rate() -> None:
    log = load_synthetic(SOURCE.model_copy(update={"negative_sampling_rate": 0.2}))
    rows = _with_labels(log.impressions, log.feedback)
    assert rows.height < 0.5 * SOURCE.num_impressions
    assert set(rows.filter("click")["negative_sampling_rate"]) == {1.0}
    assert set(rows.filter(~pl.col("click"))["negative_sampling_rate"]) == {0.2}
    weight = 1 / rows["negative_sampling_rate"]
    assert weight.sum() == pytest.approx(SOURCE.num_impressions, rel=0.02)
    for task in ("click", "conversion"):
        assert (rows[task] * weight).sum() == pytest.approx((rows[f"truth_{task}"] * weight).sum(), rel=0.05)
    assert "all without a click, were left out (negative sampling rate 0.2)" in " ".join(log.notes)


def test_drift_changes_what_users_click() -> None:
    ends = []
    for turns in (0.0, 0.25):
        source = SOURCE.model_copy(update={"drift_turns": turns})
        log = load_synthetic(source)
        pairs = log.impressions.with_columns(
            ((pl.col("event_time_s") - pl.col("event_time_s").min()) / source.duration_s).alias("part")
        )
        pair = ["segment", "user_id", "ad_id"]
        early = pairs.filter(pl.col("part") < 0.1).unique(pair)
        late = pairs.filter(pl.col("part") > 0.9).unique(pair)
        both = early.join(late, on=pair)
        logits = [np.log(both[column] / (1 - both[column])) for column in ("truth_click", "truth_click_right")]
        ends.append(float(np.abs(logits[0] - logits[1]).mean()))
    assert ends[0] == pytest.approx(0, abs=1e-4)
    assert ends[1] > 0.5


@pytest.mark.parametrize(
    ("key", "value"), [("num_users", 1), ("negative_sampling_rate", 0), ("num_impressions", 10), ("seeds", 1)]
)
def test_a_knob_out_of_its_bounds_is_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"test: {key}: "):
        SyntheticSource.parse({key: value}, source="test")


def test_lateness_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_late_s is 10, more than max_late_s, 5"):
        SyntheticSource.parse({"feedback": {"min_late_s": 10, "max_late_s": 5}}, source="test")
