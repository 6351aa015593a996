"""Reference lines: what they answer and learn, held against hand-made counts and scikit-learn itself."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array
from scipy.special import expit, logit
from sklearn.linear_model import SGDClassifier

from exfm.artifact.manifest import Window
from exfm.artifact.rows import rows_of_keys
from exfm.events.examples import Examples, examples_of
from exfm.features.keys import keys_of_integers
from exfm.schema import Schema
from exfm.training import reference
from exfm.training.base_rate import BaseRate
from exfm.training.reference import Logistic, References

WINDOW = Window(index=0, start=0, end=10)

SCHEMA = Schema.parse(
    {
        "impression_key": "key",
        "event_time": {"column": "time"},
        "domain": "domain",
        "weight": "weight",
        "dense": [{"name": "price", "net": "item"}],
        "sparse": [
            {"name": "user", "net": "user", "table": "user"},
            {"name": "liked", "net": "user", "kind": "bag", "table": "item"},
            {"name": "seen", "net": "user", "kind": "bag", "table": "topic"},
            {"name": "item", "net": "item", "table": "item"},
        ],
        "tables": [
            {"name": "user", "rows": 5, "dim": 4},
            {"name": "item", "rows": 3, "dim": 4},
            {"name": "topic", "rows": 4, "dim": 4, "pooling": "mean"},
        ],
        "labels": [{"name": task, "feedback": task, "attribution_window": 0} for task in ("click", "buy")],
    },
    source="test",
)
FIRST_COLUMNS = {"price": 0, "user": 1, "liked": 6, "seen": 9, "item": 13}
"""Of the regression's matrix, which has 16 columns."""


def examples(count: int, *, seed: int = 0, **changed: list[float]) -> Examples:
    """Return random examples; each third label of `buy` is unknown."""
    generator = np.random.default_rng(seed)

    def bags() -> list[list[int]]:
        return [generator.integers(0, 9, size).tolist() for size in generator.integers(0, 4, count)]

    columns = {
        "key": range(count),
        "domain": ["all"] * count,
        "weight": generator.uniform(0.5, 2, count),
        "price": generator.normal(size=count).astype(np.float32),
        "user": generator.integers(0, 9, count),
        "liked": bags(),
        "seen": bags(),
        "item": generator.integers(0, 9, count),
        "label.click": generator.integers(0, 2, count).astype(float),
        "label.buy": [None if i % 3 == 0 else float(i % 2) for i in range(count)],
    }
    types = {"liked": pl.List(pl.Int64), "seen": pl.List(pl.Int64), "label.buy": pl.Float64}
    return examples_of(pl.DataFrame(columns | changed, schema_overrides=types), SCHEMA)


def matrix(taken: Examples) -> csr_array:
    """Return the features of each example, put into a matrix one by one."""
    values_BC = np.zeros((len(taken), 16), dtype=np.float32)
    values_BC[:, 0] = taken.batches.item.dense_BD[:, 0]
    for feature in SCHEMA.sparse:
        table, bags = SCHEMA.table(feature.table), taken.batches.of(feature.net).bags[feature.name]
        for b in range(len(taken)):
            keys = bags.keys[bags.offsets[b] : bags.offsets[b + 1]]
            for row in rows_of_keys(keys, table.rows):
                values_BC[b, FIRST_COLUMNS[feature.name] + row] += 1 / len(keys) if table.pooling == "mean" else 1
    return csr_array(values_BC)


def test_the_base_rate_is_the_weighted_share_of_positives_that_were_learned() -> None:
    line = BaseRate(2)
    taken = examples(3, **{"label.click": [1.0, 0.0, 0.0], "label.buy": [1.0, None, 0.0], "weight": [2.0, 1.0, 4.0]})
    np.testing.assert_array_equal(line.test(taken), np.full((3, 2), 0.5, np.float32))
    line.learn(taken)
    expected = [(2 + 0.5) / (7 + 1), (2 + 0.5) / (6 + 1)]
    np.testing.assert_allclose(line.test(taken), [expected] * 3, rtol=1e-6)
    line.learn(taken)
    np.testing.assert_allclose(line.test(taken)[0, 0], (4 + 0.5) / (14 + 1), rtol=1e-6)
    assert line.test(taken).dtype == np.float32


def test_the_regression_is_scikit_learns_on_the_same_matrix_in_order() -> None:
    line, parts = Logistic(SCHEMA), [examples(40, seed=seed) for seed in (1, 2)]
    for part in parts:
        line.learn(part)
    asked = examples(20, seed=3)
    found_BT = line.test(asked)
    assert found_BT.dtype == np.float32
    for task in range(2):
        known = [~np.isnan(part.labels_BT[:, task]) for part in parts]
        labels = [part.labels_BT[k, task] for part, k in zip(parts, known, strict=True)]
        weights = [part.weights_BT[k, task] for part, k in zip(parts, known, strict=True)]
        inputs = np.concatenate([matrix(part).toarray()[k] for part, k in zip(parts, known, strict=True)])
        rate = (weights[0] @ labels[0] + 0.5) / (weights[0].sum() + 1)
        direct = SGDClassifier(
            loss="log_loss", penalty=None, learning_rate="invscaling", eta0=0.5, power_t=0.5,
            shuffle=False, max_iter=1, tol=None,
        )  # fmt: skip
        direct.fit(
            csr_array(inputs), np.concatenate(labels), coef_init=np.zeros((1, 16)), intercept_init=logit(rate),
            sample_weight=np.concatenate(weights),
        )  # fmt: skip
        np.testing.assert_allclose(found_BT[:, task], direct.predict_proba(matrix(asked))[:, 1], rtol=1e-4)
    assert np.ptp(found_BT[:, 0]) > 0.05, "else nothing was learned"


def test_before_it_learns_the_regression_answers_one_half() -> None:
    np.testing.assert_array_equal(Logistic(SCHEMA).test(examples(3)), np.full((3, 2), 0.5, np.float32))


def test_the_regression_starts_at_the_label_rate_also_of_one_class_alone() -> None:
    line = Logistic(SCHEMA)
    taken = examples(1, **{"label.click": [0.0], "label.buy": [None], "weight": [9.0]})
    line.learn(taken)
    assert line.test(taken)[0, 0] <= expit(logit(0.5 / 10))
    assert line.test(taken)[0, 1] == 0.5, "no label of it is known"


def test_no_examples_give_no_predictions_and_teach_nothing() -> None:
    lines, none = References(SCHEMA), examples(0)
    before = lines.state()
    assert {name: values.shape for name, values in lines.test(none).items()} == {
        "base_rate": (0, 2), "logistic": (0, 2),
    }  # fmt: skip
    lines.learn(WINDOW, none)
    for name, array in lines.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_table_of_more_rows_than_coefficients_shares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_ROWS", 2)
    line, taken = Logistic(SCHEMA), examples(30)
    line.learn(taken)
    assert line.state()["coefficients"].shape == (2, 1 + 4 * 2)
    keys = keys_of_integers(np.array([0, 1, 2, 3], dtype=np.int64))
    assert set(rows_of_keys(keys, 2).tolist()) == {0, 1}


def test_restored_lines_go_on_as_if_they_had_never_stopped() -> None:
    one, first, second, asked = References(SCHEMA), examples(30, seed=1), examples(30, seed=2), examples(9, seed=3)
    one.add_ids(WINDOW, first)
    one.learn(WINDOW, first)
    state = one.state()
    other = References(SCHEMA)
    other.restore({name: array.copy() for name, array in state.items()})
    later = Window(index=1, start=10, end=20)
    assert one.add_ids(later, second) == other.add_ids(later, second)
    for lines in (one, other):
        lines.learn(later, second)
    for name, predicted in one.test(asked).items():
        np.testing.assert_array_equal(other.test(asked)[name], predicted)
    assert one.state().keys() == other.state().keys() >= {"base_rate.totals", "logistic.coefficients", "ids.user"}
    for name, array in one.state().items():
        np.testing.assert_array_equal(other.state()[name], array)


def test_heavy_examples_count_more() -> None:
    rates = []
    for weights in ([1.0, 1.0], [1.0, 3.0]):
        lines = References(SCHEMA)
        taken = examples(2, **{"label.click": [0.0, 1.0], "label.buy": [0.0, 1.0], "weight": weights})
        lines.learn(WINDOW, taken)
        rates.append({name: float(values[0, 0]) for name, values in lines.test(taken).items()})
    assert all(math.isfinite(rate) for found in rates for rate in found.values())
    assert rates[1]["base_rate"] > rates[0]["base_rate"]
    assert rates[1]["logistic"] > rates[0]["logistic"]
