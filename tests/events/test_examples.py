"""Rows of a window become tensors."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from exfm.errors import DataError
from exfm.events.examples import examples_of
from exfm.schema import Schema


def schema_with(**changes: Any) -> Schema:
    schema = {
        "impression_key": "id",
        "event_time": {"column": "time"},
        "domain": "domain",
        "sparse": [{"name": "item", "net": "item", "table": "item"}],
        "tables": [{"name": "item", "rows": 16, "dim": 4}],
        "labels": [
            {"name": "click", "feedback": "click", "attribution_window": 1},
            {"name": "buy", "feedback": "buy", "attribution_window": 1},
        ],
    }
    return Schema.parse(schema | changes, source="test")


def frame(**columns: list[Any]) -> pl.DataFrame:
    """Return three impressions: without a click, with one, and with a click and a purchase."""
    return pl.DataFrame(
        {
            "id": [1, 2, 3],
            "domain": ["a", "b", "a"],
            "item": [7, 8, 9],
            "label.click": [0, 1, 1],
            "label.buy": [0, 0, 1],
        }
        | columns
    )


def test_every_example_weighs_one_by_default() -> None:
    assert examples_of(frame(), schema_with()).weights_BT.tolist() == [[1, 1], [1, 1], [1, 1]]


def test_a_sampled_negative_weighs_what_was_left_out() -> None:
    schema = schema_with(negative_sampling_rate="rate")
    examples = examples_of(frame(rate=[0.25, 1.0, 1.0]), schema)
    assert examples.weights_BT.tolist() == [[4, 4], [1, 1], [1, 1]]


def test_a_positive_weighs_one_whatever_its_row_says_of_sampling() -> None:
    schema = schema_with(negative_sampling_rate="rate")
    assert examples_of(frame(rate=[0.5, 0.5, 0.5]), schema).weights_BT.tolist() == [[2, 2], [1, 2], [1, 1]]


def test_weight_and_sampling_rate_multiply() -> None:
    schema = schema_with(negative_sampling_rate="rate", weight="weight")
    examples = examples_of(frame(rate=[0.5, 1.0, 1.0], weight=[3.0, 2.0, 1.0]), schema)
    assert examples.weights_BT.tolist() == [[6, 6], [2, 2], [1, 1]]


def test_unknown_labels_and_pseudo_labels_are_nan() -> None:
    rows = frame(
        **{
            "label.buy": [None, 0, 1],
            "pseudo.fm.click": [0.5, None, 0.25],
            "pseudo.fm.buy": [None] * 3,
            "pseudo_age.fm": [3, None, 4],
        }
    )
    examples = examples_of(rows, schema_with(), teachers=["fm"])
    pseudo = examples.pseudo["fm"]
    np.testing.assert_array_equal(examples.labels_BT[:, 1], np.array([np.nan, 0, 1], dtype=np.float32))
    np.testing.assert_array_equal(pseudo.probabilities_BT[:, 0], np.array([0.5, np.nan, 0.25], dtype=np.float32))
    assert np.isnan(pseudo.probabilities_BT[:, 1]).all()
    np.testing.assert_array_equal(pseudo.ages_B, np.array([3, np.nan, 4]))


def test_pseudo_labels_are_kept_by_teacher() -> None:
    one = {"pseudo.one.click": [0.5, 0.4, 0.3], "pseudo.one.buy": [0.1, 0.1, 0.1], "pseudo_age.one": [1, 2, 3]}
    two = {"pseudo.two.click": [0.6, 0.7, 0.8], "pseudo.two.buy": [0.2, 0.2, 0.2], "pseudo_age.two": [4, 5, 6]}
    examples = examples_of(frame(**one, **two), schema_with(), teachers=["two", "one"])
    assert list(examples.pseudo) == ["two", "one"]
    second = next(examples.minibatches(2)).pseudo["two"]
    np.testing.assert_array_equal(second.probabilities_BT, np.array([[0.6, 0.2], [0.7, 0.2]], dtype=np.float32))
    assert second.ages_B.tolist() == [4, 5]


def test_without_a_teacher_there_are_no_pseudo_labels() -> None:
    assert examples_of(frame(), schema_with()).pseudo == {}


@pytest.mark.parametrize("wrong", [2, -1, 0.5])
def test_a_label_that_is_neither_0_nor_1_is_refused(wrong: float) -> None:
    rows = frame(**{"label.buy": [None, 0.0, wrong]})
    with pytest.raises(DataError, match=rf"column 'label.buy' is {wrong} for impression 3, expected 0, 1, or null"):
        examples_of(rows, schema_with())


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"column 'label.buy' is missing; the columns are id, domain, item"):
        examples_of(frame().drop("label.buy"), schema_with())
    with pytest.raises(DataError, match=r"column 'pseudo.other.click' is missing"):
        examples_of(frame(), schema_with(), teachers=["other"])


def test_minibatches_are_the_examples_in_order() -> None:
    parts = list(examples_of(frame(), schema_with()).minibatches(2))
    assert [len(part) for part in parts] == [2, 1]
    assert [key for part in parts for key in part.keys] == [1, 2, 3]
    assert [domain for part in parts for domain in part.domains] == ["a", "b", "a"]
    assert parts[1].labels_BT.tolist() == [[1, 1]]
