"""Intervals of quality figures, by a bootstrap of groups of examples within windows, with seeds outside.

Legend: N examples, G groups, R samples, S seeds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import FiniteFloat

from exfm.config import Config
from exfm.metrics.quality import Floats, log_losses

COVERAGE = 0.95
"""Share of the samples that lie in an interval."""

BLOCK = 4_000_000
"""Most numbers of one array while samples are drawn, which bounds memory."""

MAX_GROUPS = 4_000
"""Most groups of a window that `bootstrap_ratio` draws one by one: it puts more together, at random. Their number does
not move an interval, and 4,000 tell its ends to about 1 %."""

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Interval(Config):
    """A figure with its 95 % interval."""

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @property
    def excludes_zero(self) -> bool:
        """Return whether 0 lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Sampled:
    """A figure of all examples and seeds, and of each sample of them; NaN where it is not defined."""

    value: float
    samples_R: Doubles

    def minus(self, other: "Sampled") -> "Sampled":
        """Return the difference, sample by sample."""
        return Sampled(self.value - other.value, self.samples_R - other.samples_R)

    def times(self, factor: float) -> "Sampled":
        """Return a multiple."""
        return Sampled(factor * self.value, factor * self.samples_R)

    def over(self, other: "Sampled") -> "Sampled":
        """Return the ratio, sample by sample."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.float64(self.value) / np.float64(other.value)
            return Sampled(float(ratio), self.samples_R / other.samples_R)

    def interval(self) -> Interval | None:
        """Return the figure with the middle 95 % of its samples; None where it is defined for none of them."""
        samples = self.samples_R[np.isfinite(self.samples_R)]
        if not np.isfinite(self.value) or not len(samples):
            return None
        low, high = np.quantile(samples, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return Interval(value=self.value, low=float(low), high=float(high))


@dataclass(frozen=True)
class Figures:
    """The quality of one method's predictions, mean over seeds."""

    normalized_entropy: Sampled
    auc: Sampled
    calibration: Sampled


@dataclass(frozen=True)
class Labelled:
    """One task's examples, all with a known label; [N] each."""

    labels_N: Doubles
    weights_N: Doubles
    window_N: Ints
    """A number for each example's window."""
    group_N: Ints
    """A number for each example's group, such as its user: a group's examples in one window are drawn together."""


MethodT = TypeVar("MethodT")


def bootstrap(
    examples: Labelled, scores: Mapping[MethodT, Floats], *, num_samples: int, seed: int
) -> dict[MethodT, Figures]:
    """Return the figures of each method's scores, [S, N], on all examples and on samples of them.

    The samples are the same for all methods, so that differences are paired. In each window G - 1 of its G groups are
    drawn with replacement, and S - 1 of the S seeds: drawing all G or S would make the variance of the samples too
    small, by the factors (G - 1) / G and (S - 1) / S. A window with one group, or a method with one seed, adds nothing.
    """
    random = np.random.default_rng(seed)
    methods = {method: _Method.of(scores_SN, examples) for method, scores_SN in scores.items()}
    groups_N, groups_of_windows = _groups(examples.window_N, examples.group_N)
    found: dict[MethodT, list[Doubles]] = {method: [] for method in methods}
    for size in _blocks(num_samples, of=len(examples.labels_N)):
        counts_GR = np.concatenate([_counts(num_groups, size, random) for num_groups in groups_of_windows])
        weights_NR = examples.weights_N[:, None] * counts_GR[groups_N]
        for method, of_method in methods.items():
            found[method].append(of_method.figures(weights_NR))
    seeds = {num_seeds: _seeds(num_seeds, num_samples, random) for num_seeds in {len(s) for s in scores.values()}}
    return {
        method: _mean_figures(
            of_method.figures(examples.weights_N[:, None])[:, :, 0],
            np.concatenate(found[method], axis=2),
            seeds[of_method.num_seeds],
        )
        for method, of_method in methods.items()
    }


def bootstrap_ratio(
    numerators_N: Doubles, denominators_N: Doubles, *, window_N: Ints, group_N: Ints, num_samples: int, seed: int
) -> Sampled:
    """Return the ratio of two sums over examples, and that of samples of them, drawn as `bootstrap` draws them.

    It takes time and memory for MAX_GROUPS groups a window at most, so a day of a large log is no more than a second.
    """
    random = np.random.default_rng(seed)
    groups_N, groups_of_windows = _groups(window_N, group_N % MAX_GROUPS)
    sums_2G = np.stack([np.bincount(groups_N, weights=values_N) for values_N in (numerators_N, denominators_N)])
    samples_2R = np.zeros((2, num_samples))
    for of_window_2G in np.split(sums_2G, np.cumsum(groups_of_windows)[:-1], axis=1):
        samples_2R += of_window_2G @ _counts(of_window_2G.shape[1], num_samples, random)
    numerator, denominator = (
        Sampled(float(sums_G.sum()), samples_R) for sums_G, samples_R in zip(sums_2G, samples_2R, strict=True)
    )
    return numerator.over(denominator)


def groups_of(users: pl.Series | None, *, num_examples: int) -> Ints:
    """Return a number for each example's user, one of its own where the user is not known; [N]."""
    own_N = -1 - np.arange(num_examples)
    if users is None:
        return own_N
    codes = users.rank("dense").cast(pl.Int64)
    return np.where(codes.is_null().to_numpy(), own_N, codes.fill_null(0).to_numpy())


def _mean_figures(values_3S: Doubles, samples_3SR: Doubles, seeds_MR: Ints) -> Figures:
    """Return figures as means over seeds: all of them, and those that are drawn for each sample."""
    drawn_3MR = np.take_along_axis(samples_3SR, np.broadcast_to(seeds_MR, (3, *seeds_MR.shape)), axis=1)
    means_3R = drawn_3MR.mean(axis=1)
    return Figures(*(Sampled(float(values_3S[i].mean()), means_3R[i]) for i in range(3)))


def _seeds(num_seeds: int, num_samples: int, random: np.random.Generator) -> Ints:
    return random.integers(num_seeds, size=(max(num_seeds - 1, 1), num_samples))


def _counts(num_groups: int, num_samples: int, random: np.random.Generator) -> Doubles:
    """Return how often each group of a window is in each sample, so scaled that they add up to the groups; [G, R]."""
    num_drawn = max(num_groups - 1, 1)
    drawn = random.integers(num_groups, size=(num_drawn, num_samples)) * num_samples + np.arange(num_samples)
    counts = np.bincount(drawn.ravel(), minlength=num_groups * num_samples).reshape(num_groups, num_samples)
    scaled: Doubles = counts.astype(np.float64) * np.float64(num_groups / num_drawn)
    return scaled


def _groups(window_N: Ints, group_N: Ints) -> tuple[Ints, list[int]]:
    """Return the number of each example's group, counted through all windows, and how many groups each window has."""
    windows, windows_N = np.unique(window_N, return_inverse=True)
    own, own_N = np.unique(group_N, return_inverse=True)
    pairs, groups_N = np.unique(windows_N * len(own) + own_N, return_inverse=True)
    return groups_N, np.bincount(pairs // max(len(own), 1), minlength=len(windows)).tolist()


def _blocks(num_samples: int, *, of: int) -> Iterator[int]:
    """Yield sizes that add up to all samples."""
    size = max(BLOCK // max(of, 1), 1)
    for start in range(0, num_samples, size):
        yield min(size, num_samples - start)


@dataclass(frozen=True)
class _Method:
    """One method's predictions, prepared for any weights of the examples."""

    labels_N: Doubles
    scores_SN: Doubles
    losses_SN: Doubles
    order_SN: Ints
    """Positions of the examples in ascending order of score."""
    tie_starts: tuple[Ints, ...]
    """Where each distinct score begins in that order, for each seed."""

    @classmethod
    def of(cls, scores_SN: Floats, examples: Labelled) -> "_Method":
        order_SN = np.argsort(scores_SN, axis=1, kind="stable")
        is_new_SN = np.diff(np.take_along_axis(scores_SN, order_SN, axis=1), axis=1, prepend=-1) > 0
        return cls(
            labels_N=examples.labels_N,
            scores_SN=scores_SN.astype(np.float64),
            losses_SN=log_losses(scores_SN, examples.labels_N.astype(np.float32)),
            order_SN=order_SN,
            tie_starts=tuple(np.flatnonzero(is_new_N) for is_new_N in is_new_SN),
        )

    @property
    def num_seeds(self) -> int:
        """Return S."""
        return len(self.scores_SN)

    def figures(self, weights_NR: Doubles) -> Doubles:
        """Return normalized entropy, AUC and calibration for weights of the examples; [3, S, R], NaN if undefined."""
        totals_R = weights_NR.sum(axis=0)
        positives_R = self.labels_N @ weights_NR
        with np.errstate(divide="ignore", invalid="ignore"):
            rate_R = positives_R / totals_R
            entropy_R = -(rate_R * np.log(rate_R) + (1 - rate_R) * np.log1p(-rate_R))  # NaN of one class only
            entropies_SR = (self.losses_SN @ weights_NR) / totals_R / entropy_R
            calibrations_SR = (self.scores_SN @ weights_NR) / positives_R
            pairs_R = positives_R * (totals_R - positives_R)
            aucs_SR = np.stack([self._ordered_pairs(seed, weights_NR) / pairs_R for seed in range(self.num_seeds)])
        return np.stack([entropies_SR, aucs_SR, calibrations_SR])

    def _ordered_pairs(self, seed: int, weights_NR: Doubles) -> Doubles:
        """Return the weight of pairs with the positive above the negative, and half of that of ties; [R]."""
        order_N, starts = self.order_SN[seed], self.tie_starts[seed]
        sorted_NR, labels_N1 = weights_NR[order_N], self.labels_N[order_N][:, None]
        positives = np.add.reduceat(sorted_NR * labels_N1, starts, axis=0)
        negatives = np.add.reduceat(sorted_NR * (1 - labels_N1), starts, axis=0)
        below = np.cumsum(negatives, axis=0) - negatives / 2
        pairs_R: Doubles = (positives * below).sum(axis=0)
        return pairs_R
