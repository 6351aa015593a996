"""A model's predictions are drawn to the base rate as far as it has not shown to know more."""

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from scipy.special import expit, logit
from torch import nn

from exfm.events.examples import Examples, examples_of
from exfm.schema import Schema
from exfm.training.base_rate import BaseRate
from exfm.training.shrinkage import Shrinkage

SCHEMA = Schema.parse(
    {
        "version": 1,
        "impression_key": "key",
        "event_time": {"column": "time", "kind": "absolute"},
        "domain": "domain",
        "weight": "weight",
        "sparse": [{"name": "item", "net": "item", "table": "item"}],
        "tables": [{"name": "item", "rows": 4, "dim": 4}],
        "labels": [
            {"name": "click", "feedback": "click", "attribution_window": 0},
            {"name": "buy", "feedback": "buy", "attribution_window": 0},
        ],
    },
    source="test",
)
NUM_WINDOWS, NUM_EXAMPLES = 30, 600


def window(clicks: npt.ArrayLike, buys: npt.ArrayLike | None = None, weights: npt.ArrayLike = 1.0) -> Examples:
    clicks = np.asarray(clicks, dtype=np.float64)
    count = len(clicks)
    columns = {
        "key": range(count),
        "time": range(count),
        "domain": ["home"] * count,
        "item": [0] * count,
        "weight": np.broadcast_to(np.asarray(weights, dtype=np.float64), count),
        "label.click": clicks,
        "label.buy": clicks if buys is None else np.asarray(buys, dtype=np.float64),
    }
    return examples_of(pl.DataFrame(columns), SCHEMA)


def both(logits_B: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the same logits for both tasks."""
    return np.tile(np.asarray(logits_B, dtype=np.float32)[:, None], (1, 2))


def log_loss(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).sum())


def test_the_share_is_the_chance_that_the_model_and_not_the_base_rate_is_right() -> None:
    shrinkage = Shrinkage(2)
    shrinkage.learn(window([1, 0, 0]), both([9, 9, 9]))  # before the base rate was known
    rate, own = (1 + 0.5) / (3 + 1), np.array([0.8, 0.1])
    shrinkage.learn(window([1, 0]), both(logit(own)))
    likelihood, of_rate = own[0] * (1 - own[1]), rate * (1 - rate)
    assert shrinkage.share() == pytest.approx([likelihood / (likelihood + of_rate)] * 2, rel=1e-5)


def test_what_is_served_lies_between_the_logits_of_base_rate_and_model() -> None:
    shrinkage = Shrinkage(2)
    for _ in range(2):
        shrinkage.learn(window([1, 0, 0], [1, 1, 0]), both([0.2, -0.2, 0.1]))
    share, base = shrinkage.share(), logit([2.5 / 7, 4.5 / 7])
    expected = expit(base + share * (both([2.0, -1.0]) - base))
    np.testing.assert_allclose(shrinkage.served(both([2.0, -1.0])), expected, rtol=1e-5)


def test_a_model_serves_its_own_logits_before_anything_is_learned() -> None:
    shrinkage = Shrinkage(2)
    np.testing.assert_allclose(shrinkage.served(both([3.0, -1.0])), expit(both([3.0, -1.0])), rtol=1e-6)


def test_a_head_with_the_shrinkage_in_it_gives_what_is_served() -> None:
    shrinkage, head = Shrinkage(2), nn.Linear(3, 2)
    for _ in range(2):
        shrinkage.learn(window([1, 0, 0], [1, 1, 0]), both([0.2, -0.2, 0.1]))
    hidden_BH, folded = torch.randn(5, 3), shrinkage.fold(head)
    logits_BT = nn.functional.linear(hidden_BH, folded["weight"], folded["bias"])
    served_BT = shrinkage.served(head(hidden_BH).detach().numpy())
    np.testing.assert_allclose(logits_BT.sigmoid().numpy(), served_BT, rtol=1e-5)


def test_a_model_that_knows_something_soon_serves_nearly_its_own_predictions() -> None:
    rng, shrinkage = np.random.default_rng(0), Shrinkage(2)
    for _ in range(4):
        own = rng.normal(-1, 1, NUM_EXAMPLES)
        shrinkage.learn(window(rng.random(NUM_EXAMPLES) < expit(own)), both(own))
    assert (shrinkage.share() > 0.999).all()


@pytest.mark.parametrize("spread", [0.3, 0.5, 1.0])
def test_a_model_of_chance_loses_a_few_nats_to_the_base_rate_however_long_the_log(spread: float) -> None:
    rng, shrinkage, base_rate = np.random.default_rng(1), Shrinkage(2), BaseRate(2)
    lost, lost_unshrunk = 0.0, 0.0
    for index in range(NUM_WINDOWS):
        labels, own = rng.random(NUM_EXAMPLES) < 0.1, both(rng.normal(logit(0.1), spread, NUM_EXAMPLES))
        taken = window(labels)
        if index:
            of_rate = log_loss(base_rate.test(taken)[:, 0], labels)
            lost += log_loss(shrinkage.served(own)[:, 0], labels) - of_rate
            lost_unshrunk += log_loss(expit(own)[:, 0], labels) - of_rate
        shrinkage.learn(taken, own)
        base_rate.learn(taken)
    assert lost < 12 < 40 < lost_unshrunk
    assert 0.04 < shrinkage.share()[0] < 0.2, "it keeps a part, by which it may come back"


def test_a_model_comes_back_within_a_few_good_windows() -> None:
    rng, shrinkage = np.random.default_rng(2), Shrinkage(2)
    for _ in range(50):
        shrinkage.learn(window(rng.random(NUM_EXAMPLES) < 0.3), both(rng.normal(0, 2, NUM_EXAMPLES)))
    assert shrinkage.share() == pytest.approx([expit(-3)] * 2)
    for _ in range(2):
        own = rng.normal(-1, 1, NUM_EXAMPLES)
        shrinkage.learn(window(rng.random(NUM_EXAMPLES) < expit(own)), both(own))
    assert (shrinkage.share() > 0.99).all()


def test_each_task_has_its_own_share_and_unknown_labels_count_as_none() -> None:
    rng, shrinkage, alone = np.random.default_rng(3), Shrinkage(2), Shrinkage(2)
    for _ in range(3):
        own = rng.normal(0, 1, 40)
        labels = (rng.random(40) < expit(own)).astype(float)
        few = np.where(np.arange(40) % 2 == 0, labels, np.nan)
        shrinkage.learn(window(few, np.full(40, np.nan)), both(own))
        alone.learn(window(labels[::2]), both(own[::2]))
    assert shrinkage.share()[0] == pytest.approx(alone.share()[0])
    assert shrinkage.share()[1] == 1, "no label of it is known"


def test_equal_weights_are_no_evidence_and_a_weight_of_0_takes_an_example_out() -> None:
    own, labels = [0.5, -1.0, 2.0, 1.0], [1, 0, 1, 0]
    shares = []
    for weights, rows in ((1.0, 4), (7.0, 4), ([1, 1, 1, 0], 4), (1.0, 3)):
        shrinkage = Shrinkage(2)
        shrinkage.learn(window([1, 0] * 500), both(np.zeros(1000)))
        shrinkage.learn(window(labels[:rows], weights=weights), both(own[:rows]))
        shares.append(shrinkage.share()[0])
    assert shares[0] == pytest.approx(shares[1])
    assert shares[2] == pytest.approx(shares[3])
    assert shares[0] != pytest.approx(shares[3])
