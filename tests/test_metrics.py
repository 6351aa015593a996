import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.metrics.quality import Quality, quality

Floats = npt.NDArray[np.float32]


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def ones(count: int) -> Floats:
    return np.ones(count, dtype=np.float32)


def entropy(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


def test_known_answers() -> None:
    found = quality(floats(0.75, 0.5, 0.25, 0.5), floats(1, 0, 0, 1), ones(4))
    loss = -(math.log(0.75) + math.log(0.5) + math.log(0.75) + math.log(0.5)) / 4
    assert found.num_examples == 4
    assert found.base_rate == 0.5
    assert found.normalized_entropy == pytest.approx(loss / math.log(2))
    assert found.auc == pytest.approx(3.5 / 4)  # of 4 pairs 3 are in order and one is a tie
    assert found.calibration == pytest.approx(1.0)


def test_weighted_known_answers() -> None:
    found = quality(floats(0.8, 0.4), floats(1, 0), floats(1, 3))
    loss = -(1 * math.log(0.8) + 3 * math.log(0.6)) / 4
    assert found.base_rate == 0.25
    assert found.normalized_entropy == pytest.approx(loss / entropy(0.25))
    assert found.auc == 1.0
    assert found.calibration == pytest.approx((0.8 + 3 * 0.4) / 1)


@given(st.integers(1, 30), st.integers(1, 30))
def test_always_answering_the_base_rate_has_an_entropy_of_one(positives: int, negatives: int) -> None:
    count = positives + negatives
    labels = np.concatenate([ones(positives), np.zeros(negatives, dtype=np.float32)])
    found = quality(np.full(count, positives / count, dtype=np.float32), labels, ones(count))
    assert found.normalized_entropy == pytest.approx(1.0, abs=1e-5)
    assert found.auc == pytest.approx(0.5)
    assert found.calibration == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.floats(1 / 64, 63 / 64, width=32), st.booleans(), st.integers(1, 5)), min_size=2, max_size=20
    ).filter(lambda rows: len({label for _, label, _ in rows}) == 2)
)
def test_a_weight_counts_as_often_as_it_says(rows: list[tuple[float, bool, int]]) -> None:
    probabilities, labels, weights = (np.array(column, dtype=np.float32) for column in zip(*rows, strict=True))
    times = weights.astype(np.int64)
    weighted = quality(probabilities, labels, weights)
    repeated = quality(np.repeat(probabilities, times), np.repeat(labels, times), ones(int(times.sum())))
    assert weighted.num_examples == len(rows)
    for figure in ("base_rate", "normalized_entropy", "auc", "calibration"):
        assert getattr(weighted, figure) == pytest.approx(getattr(repeated, figure), rel=1e-6)


def test_nothing_is_defined_without_examples() -> None:
    assert quality(floats(), floats(), floats()) == Quality(num_examples=0)


def test_nothing_is_defined_without_known_labels() -> None:
    assert quality(floats(0.5), floats(math.nan), ones(1)) == Quality(num_examples=0)


def test_only_negatives_define_the_base_rate_alone() -> None:
    assert quality(floats(0.5, 0.1), floats(0, 0), ones(2)) == Quality(num_examples=2, base_rate=0.0)


def test_only_positives_define_base_rate_and_calibration() -> None:
    found = quality(floats(0.5, 0.25), floats(1, 1), floats(0.3, 0.3))
    assert found == Quality(num_examples=2, base_rate=1.0, calibration=found.calibration)
    assert found.calibration == pytest.approx(0.375)


def test_examples_with_an_unknown_label_do_not_count() -> None:
    probabilities, labels, weights = floats(0.7, 0.9, 0.2), floats(1, math.nan, 0), floats(1, 50, 2)
    known = [0, 2]
    assert quality(probabilities, labels, weights) == quality(probabilities[known], labels[known], weights[known])


def test_a_sure_and_wrong_prediction_stays_finite() -> None:
    found = quality(floats(0.0, 1.0), floats(1, 0), ones(2))
    assert found.normalized_entropy is not None
    assert 10 < found.normalized_entropy < 100
    assert found.auc == 0.0


def test_twice_the_right_rate_has_a_calibration_of_two() -> None:
    assert quality(floats(0.5, 0.5, 0.5, 0.5), floats(1, 0, 0, 0), ones(4)).calibration == pytest.approx(2.0)
