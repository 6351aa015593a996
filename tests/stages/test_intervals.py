"""Intervals: known by hand, the figures of exfm.metrics.quality, and right as often as they promise."""

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from exfm.metrics.intervals import Interval, Labelled, Sampled, bootstrap, bootstrap_ratio, groups_of
from exfm.metrics.quality import log_losses, quality

Doubles = npt.NDArray[np.float64]


def examples_of(
    labels: list[int], *, windows: list[int] | None = None, groups: list[int] | None = None, weight: float = 1.0
) -> Labelled:
    size = len(labels)
    return Labelled(
        labels_N=np.array(labels, dtype=np.float64),
        weights_N=np.full(size, weight),
        window_N=np.array(windows or [0] * size),
        group_N=np.array(groups or range(size)),
    )


def test_figures_of_all_examples_are_those_of_the_metrics() -> None:
    random = np.random.default_rng(1)
    labels, weights = (random.random(200) < 0.3).astype(np.float32), random.uniform(0.5, 2, 200).astype(np.float32)
    scores = np.round(random.random(200), 1).astype(np.float32)  # with ties
    examples = Labelled(labels.astype(float), weights.astype(float), np.arange(200) // 50, np.arange(200) // 5)
    found = bootstrap(examples, {"m": scores[None]}, num_samples=100, seed=0)["m"]
    expected = quality(scores, labels, weights)
    assert found.normalized_entropy.value == pytest.approx(expected.normalized_entropy)
    assert found.auc.value == pytest.approx(expected.auc)
    assert found.calibration.value == pytest.approx(expected.calibration)


def test_two_groups_by_hand() -> None:
    """Of two groups one is drawn, and counts twice: each sample's calibration is that of one group."""
    examples = examples_of([1, 0, 1, 1], groups=[7, 7, 9, 9])
    scores = np.array([[0.5, 0.25, 0.5, 0.5]], dtype=np.float32)
    found = bootstrap(examples, {"m": scores}, num_samples=1000, seed=0)["m"].calibration
    assert found.value == pytest.approx(1.75 / 3)
    assert np.unique(found.samples_R.round(9)) == pytest.approx([0.5, 0.75])
    assert (found.samples_R > 0.6).mean() == pytest.approx(0.5, abs=0.05)
    assert found.interval() == Interval(value=1.75 / 3, low=0.5, high=0.75)


def test_groups_are_drawn_within_their_window() -> None:
    """Each window has one group, so nothing is left to chance."""
    examples = examples_of([1, 0, 1, 0], windows=[0, 0, 1, 1], groups=[5, 5, 5, 5])
    found = bootstrap(examples, {"m": np.array([[0.9, 0.3, 0.6, 0.2]])}, num_samples=100, seed=0)["m"]
    assert np.ptp(found.auc.samples_R) == 0
    assert np.ptp(found.normalized_entropy.samples_R) == pytest.approx(0, abs=1e-12)


def test_one_user_in_two_windows_is_drawn_in_each_of_its_own() -> None:
    examples = examples_of([1, 1, 1, 1], windows=[0, 0, 1, 1], groups=[1, 2, 1, 2])
    scores = np.array([[0.0, 1.0, 0.0, 1.0]])
    found = bootstrap(examples, {"m": scores}, num_samples=400, seed=0)["m"].calibration
    assert np.unique(found.samples_R) == pytest.approx([0, 0.5, 1])


def test_a_difference_of_equal_scores_has_no_width() -> None:
    random = np.random.default_rng(0)
    examples = examples_of((random.random(300) < 0.5).astype(int).tolist())
    scores = random.random((3, 300))
    found = bootstrap(examples, {"a": scores, "b": scores.copy()}, num_samples=100, seed=0)
    difference = found["a"].normalized_entropy.minus(found["b"].normalized_entropy).interval()
    assert difference == Interval(value=0, low=0, high=0)


def test_seeds_that_differ_widen_an_interval_and_equal_ones_do_not() -> None:
    random = np.random.default_rng(0)
    examples = examples_of((random.random(2000) < 0.5).astype(int).tolist())
    same_SN = np.tile(random.uniform(0.4, 0.6, 2000), (3, 1))
    other_SN = same_SN * np.array([[0.8], [1.0], [1.2]])
    found = bootstrap(examples, {"same": same_SN, "other": other_SN}, num_samples=500, seed=0)
    same, other = (found[name].calibration.interval() for name in ("same", "other"))
    assert same is not None
    assert other is not None
    assert same.high - same.low < 0.1
    assert other.high - other.low > 0.3


def test_the_spread_of_seeds_is_that_of_their_mean() -> None:
    """One example a window leaves the seeds alone to chance."""
    examples = examples_of([1, 1], windows=[0, 1])
    scores_SN = np.array([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]])
    samples_R = bootstrap(examples, {"m": scores_SN}, num_samples=20_000, seed=0)["m"].calibration.samples_R
    assert samples_R.std() == pytest.approx(np.std([0.2, 0.5, 0.8], ddof=1) / np.sqrt(3), rel=0.02)


def test_a_figure_that_no_sample_defines_has_no_interval() -> None:
    found = bootstrap(examples_of([1, 1, 1]), {"m": np.full((1, 3), 0.5)}, num_samples=100, seed=0)["m"]
    assert found.auc.interval() is None
    assert found.normalized_entropy.interval() is None
    assert found.calibration.interval() == Interval(value=0.5, low=0.5, high=0.5)


def test_a_ratio_to_nothing_is_no_number() -> None:
    nothing = Sampled(0.0, np.zeros(100))
    assert nothing.over(nothing).interval() is None


def test_blocks_of_samples_change_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, scores = examples_of([1, 0] * 20), {"m": np.linspace(0.1, 0.9, 40)[None]}
    monkeypatch.setattr("exfm.metrics.intervals.BLOCK", 40 * 7)
    found = bootstrap(examples, scores, num_samples=100, seed=0)["m"]
    assert found.auc.samples_R.shape == (100,)
    assert np.isfinite(found.auc.samples_R).all()


def test_a_ratio_of_sums_is_drawn_as_all_figures_are() -> None:
    """Normalized entropies of the same examples have one divisor, so their ratio is that of their losses."""
    random = np.random.default_rng(3)
    labels_N = (random.random(600) < 0.3).astype(float)
    examples = Labelled(labels_N, random.uniform(0.5, 2, 600), np.arange(600) // 200, np.arange(600) // 5)
    scores = {name: random.uniform(0.1, 0.6, (1, 600)).astype(np.float32) for name in "ab"}
    both = bootstrap(examples, scores, num_samples=4_000, seed=0)
    expected = both["a"].normalized_entropy.over(both["b"].normalized_entropy).interval()
    losses = [log_losses(scores[name][0], labels_N.astype(np.float32)) * examples.weights_N for name in "ab"]
    found = ratio(losses[0], losses[1], examples).interval()
    assert expected is not None
    assert found is not None
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


def ratio(numerators_N: Doubles, denominators_N: Doubles, examples: Labelled) -> Sampled:
    return bootstrap_ratio(
        numerators_N, denominators_N, window_N=examples.window_N, group_N=examples.group_N, num_samples=4_000, seed=0
    )


def test_groups_that_are_drawn_together_leave_an_interval_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    examples = examples_of([0] * 20_000, groups=list(range(20_000)))
    losses_N, ones_N = random.exponential(size=20_000), np.ones(20_000)
    one_by_one = 1 / np.sqrt(20_000)  # the standard error of the mean of such losses
    for most in (20_000, 1_000):
        monkeypatch.setattr("exfm.metrics.intervals.MAX_GROUPS", most)
        assert ratio(losses_N, ones_N, examples).samples_R.std() == pytest.approx(one_by_one, rel=0.05)


def test_an_unknown_user_is_one_of_its_own() -> None:
    assert groups_of(None, num_examples=2).tolist() == [-1, -2]
    assert groups_of(pl.Series(["b", None, "a", "b", None]), num_examples=5).tolist() == [2, -2, 1, 2, -5]


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    """The truth is the mean over many streams; users are alike within, and three seeds shift the predictions."""
    random = np.random.default_rng(0)

    def difference(num_users: int) -> Sampled:
        """Return the difference of calibration between two methods in one stream of four windows."""
        user_N = np.repeat(np.arange(num_users), 10)
        truth_N = np.clip(0.4 + 0.15 * random.standard_normal(num_users), 0.02, 0.98)[user_N]
        examples = Labelled(
            labels_N=(random.random(len(user_N)) < truth_N).astype(np.float64),
            weights_N=np.ones(len(user_N)),
            window_N=user_N % 4,
            group_N=user_N,
        )
        good_N = np.clip(truth_N + 0.05 * random.standard_normal(num_users)[user_N], 0.01, 0.99)
        scores = {
            name: np.clip(base_N * (1 + 0.02 * random.standard_normal((4, 1))), 0.01, 0.99)
            for name, base_N in (("a", good_N), ("b", np.full(len(user_N), 0.4)))
        }
        found = bootstrap(examples, scores, num_samples=300, seed=int(random.integers(2**31)))
        return found["a"].normalized_entropy.minus(found["b"].normalized_entropy)

    streams = [difference(80) for _ in range(200)]
    truth = np.mean([stream.value for stream in streams])
    intervals = [interval for stream in streams if (interval := stream.interval())]
    held = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.90 <= held <= 0.985
