"""What a comparison says of scores: differences are of the same samples, and each has its own reference."""

import numpy as np
import pytest

from exfm.evaluation.comparison import compare_task
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.intervals import Labelled
from exfm.metrics import Floats, quality

RANDOM = np.random.default_rng(3)
TRUE_N = RANDOM.uniform(0.1, 0.7, 2000)
LABELS_N = (RANDOM.random(2000) < TRUE_N).astype(np.float64)
EXAMPLES = Labelled(LABELS_N, np.ones(2000), np.arange(2000) // 500, np.arange(2000))


def told(blur: float) -> Floats:
    """Return what two seeds say, the truth blurred in logits."""
    logits_N = np.log(TRUE_N / (1 - TRUE_N)) + blur * np.random.default_rng(0).normal(size=(2, 2000))
    return (1 / (1 + np.exp(-logits_N))).astype(np.float32)


def entropy(scores_SN: Floats) -> float:
    found = [quality(scores_N, LABELS_N.astype(np.float32), np.ones(2000, dtype=np.float32)) for scores_N in scores_SN]
    return float(np.mean([of_seed.normalized_entropy for of_seed in found]))


def test_a_method_is_compared_with_kd_on_the_same_samples() -> None:
    scores = {"label": told(1.0), "kd": told(0.5), "ah": told(0.3)}
    config = ComparisonConfig(methods=("label", "kd", "ah"), num_bootstrap_samples=200)
    methods = compare_task(EXAMPLES, scores, told(0)[0], config=config).methods
    found = methods["ah"].delta_ne_of_kd
    assert found is not None
    assert found.value == pytest.approx(entropy(scores["ah"]) - entropy(scores["kd"]))
    assert found.value < found.high < 0
    own = methods["ah"].normalized_entropy
    assert own is not None
    assert found.high - found.low < (own.high - own.low) / 2  # paired: what both share cancels out
    assert methods["kd"].delta_ne_of_kd is None
    of_label = methods["label"].delta_ne_of_kd
    assert of_label is not None
    assert of_label.low > 0


def test_without_kd_there_is_nothing_to_compare_with_it() -> None:
    config = ComparisonConfig(methods=("label", "ah"), num_bootstrap_samples=100)
    methods = compare_task(EXAMPLES, {"label": told(1.0), "ah": told(0.3)}, told(0)[0], config=config).methods
    assert methods["ah"].delta_ne_of_kd is None
    assert methods["ah"].delta_ne is not None
