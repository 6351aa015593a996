"""What a comparison says of scores: differences are of the same samples, and each has its own reference."""

from typing import cast

import numpy as np
import pytest

from exfm.evaluation.config import ComparisonConfig, Method
from exfm.evaluation.field import Contender
from exfm.evaluation.figures import compare_task
from exfm.metrics.intervals import Labelled
from exfm.metrics.quality import Floats, quality

FEW_SAMPLES = ComparisonConfig(num_bootstrap_samples=200)
RANDOM = np.random.default_rng(3)
TRUE_N = RANDOM.uniform(0.1, 0.7, 2000)
LABELS_N = (RANDOM.random(2000) < TRUE_N).astype(np.float64)
EXAMPLES = Labelled(LABELS_N, np.ones(2000), np.arange(2000) // 500, np.arange(2000))


def told(blur: float) -> Floats:
    """Return what two seeds say, the truth blurred in logits."""
    logits_N = np.log(TRUE_N / (1 - TRUE_N)) + blur * np.random.default_rng(0).normal(size=(2, 2000))
    return (1 / (1 + np.exp(-logits_N))).astype(np.float32)


def methods_of(teacher: str, **scores: Floats) -> dict[Contender, Floats]:
    return {Contender(teacher, cast(Method, method)): scores_SN for method, scores_SN in scores.items()}


def entropy(scores_SN: Floats) -> float:
    found = [quality(scores_N, LABELS_N.astype(np.float32), np.ones(2000, dtype=np.float32)) for scores_N in scores_SN]
    return float(np.mean([of_seed.normalized_entropy for of_seed in found]))


def test_a_method_is_compared_with_kd_on_the_same_samples() -> None:
    kd, ah = told(0.5), told(0.3)
    methods = compare_task(
        EXAMPLES, methods_of("fm", label=told(1.0), kd=kd, ah=ah), {"fm": told(0)[0]}, references={}, config=FEW_SAMPLES
    ).own().methods  # fmt: skip
    found = methods["ah"].delta_ne_of_kd
    assert found is not None
    assert found.value == pytest.approx(entropy(ah) - entropy(kd))
    assert found.value < found.high < 0
    own = methods["ah"].normalized_entropy
    assert own is not None
    assert found.high - found.low < (own.high - own.low) / 2  # paired: what both share cancels out
    assert methods["kd"].delta_ne_of_kd is None
    of_label = methods["label"].delta_ne_of_kd
    assert of_label is not None
    assert of_label.low > 0


def test_without_kd_there_is_nothing_to_compare_with_it() -> None:
    scores = methods_of("fm", label=told(1.0), ah=told(0.3))
    methods = compare_task(EXAMPLES, scores, {"fm": told(0)[0]}, references={}, config=FEW_SAMPLES).own().methods
    assert methods["ah"].delta_ne_of_kd is None
    assert methods["ah"].delta_ne is not None


def test_each_teacher_has_its_own_kd_and_its_own_lead_and_all_the_same_label() -> None:
    label, own_kd, old_kd, old_ah = told(1.0), told(0.5), told(0.9), told(0.7)
    scores = methods_of("fm", label=label, kd=own_kd) | methods_of("old", kd=old_kd, ah=old_ah)
    teachers = {"fm": told(0.2)[0], "old": told(0.6)[0]}
    found = compare_task(EXAMPLES, scores, teachers, references={}, config=FEW_SAMPLES)
    assert list(found.teachers) == ["fm", "old"]
    assert list(found.own().methods) == ["label", "kd"]
    old = found.teachers["old"]
    assert list(old.methods) == ["kd", "ah"]
    of_kd, of_label, ratio = (
        old.methods["ah"].delta_ne_of_kd, old.methods["ah"].delta_ne, old.methods["ah"].transfer_ratio
    )  # fmt: skip
    assert of_kd is not None
    assert of_label is not None
    assert ratio is not None
    assert of_kd.value == pytest.approx(entropy(old_ah) - entropy(old_kd))
    assert of_label.value == pytest.approx(entropy(old_ah) - entropy(label))
    lead = entropy(label) - entropy(told(0.6)[:1])
    assert ratio.value == pytest.approx((entropy(label) - entropy(old_ah)) / lead)


def test_a_teacher_that_was_silent_on_an_example_has_no_figures() -> None:
    silent = told(0.6)[0]
    silent[7] = np.nan
    scores = methods_of("fm", label=told(1.0), kd=told(0.5)) | methods_of("old", kd=told(0.9))
    found = compare_task(EXAMPLES, scores, {"fm": told(0.2)[0], "old": silent}, references={}, config=FEW_SAMPLES)
    assert found.own().pseudo_labels is not None
    assert found.teachers["old"].pseudo_labels is None
    assert found.teachers["old"].methods["kd"].transfer_ratio is None
    assert found.teachers["old"].methods["kd"].delta_ne is not None


def test_reference_lines_are_held_against_label_even_if_a_teacher_has_the_name_of_one() -> None:
    label, line = told(1.0), told(2.0)[0]
    scores = methods_of("logistic", label=label, kd=told(0.5))
    found = compare_task(
        EXAMPLES, scores, {"logistic": told(0)[0]}, references={"logistic": line}, config=FEW_SAMPLES
    ).references["logistic"]  # fmt: skip
    assert found.delta_ne is not None
    assert found.delta_ne.value == pytest.approx(entropy(line[None]) - entropy(label))
    assert found.delta_ne.low > 0
    assert found.transfer_ratio is None
