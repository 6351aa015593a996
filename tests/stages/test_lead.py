"""A teacher's lead counts where it is more than chance."""

import numpy as np
import pytest
from scipy.special import expit, logit

from exfm.artifact.manifest import Window
from exfm.distill.lead import Lead, LeadOfTask
from exfm.distill.shares import is_old
from exfm.events.examples import Floats

NUM_EXAMPLES = 2_000


class Labels:
    """Windows of labels with a known probability each."""

    def __init__(self, seed: int = 0, *, shift: float = -1.0, spread: float = 1.0) -> None:
        self.rng = np.random.default_rng(seed)
        self._shift, self._spread = shift, spread

    def window(self) -> tuple[Floats, Floats]:
        """Return labels and their probabilities."""
        logits = self._shift + self._spread * self.rng.standard_normal(NUM_EXAMPLES)
        truth = 1 / (1 + np.exp(-logits))
        labels = (self.rng.random(NUM_EXAMPLES) < truth).astype(np.float32)
        return labels, truth.astype(np.float32)


def entropy(rate: float) -> float:
    return -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def cross_entropy(probabilities: Floats, truth: Floats) -> float:
    return float(-(truth * np.log(probabilities) + (1 - truth) * np.log1p(-probabilities)).mean())


def blurred(world: Labels, truth: Floats, *, by: float) -> Floats:
    blurred: Floats = expit(logit(truth) + by * world.rng.standard_normal(len(truth))).astype(np.float32)
    return blurred


def after(lead: LeadOfTask, labels: Floats, *, own: Floats, pseudo: Floats) -> Lead | None:
    return lead.after(labels_B=labels, weights_B=np.ones_like(labels), own_B=own, pseudo_B=pseudo)


def test_a_teacher_that_knows_the_truth_leads_a_model_that_knows_the_base_rate_by_what_it_explains() -> None:
    world, lead, explained = Labels(), LeadOfTask(), []
    for _ in range(6):
        labels, truth = world.window()
        found = after(lead, labels, own=np.full_like(truth, truth.mean()), pseudo=truth)
        explained.append(1 - np.mean([entropy(p) for p in truth]) / entropy(float(truth.mean())))
    assert found is not None
    assert found.lead == pytest.approx(np.mean(explained[2:]), abs=3 * found.std_error)
    assert 0 < found.std_error < 0.02
    assert found.at_least > 0.05


def test_a_lead_does_not_depend_on_the_scale_and_shift_of_the_pseudo_labels_logits() -> None:
    world, plain, moved = Labels(), LeadOfTask(), LeadOfTask()
    for _ in range(3):
        labels, truth = world.window()
        own = np.full_like(truth, 0.3)
        logits = np.log(truth / (1 - truth))
        one = after(plain, labels, own=own, pseudo=truth)
        two = after(moved, labels, own=own, pseudo=1 / (1 + np.exp(-(2 * logits + 1))))
    assert one is not None
    assert two is not None
    assert two.lead == pytest.approx(one.lead, abs=1e-3)


def test_a_label_rate_that_moves_hides_no_lead() -> None:
    leads = []
    for moves in (0.0, 1.5):
        world, lead, rng = Labels(), LeadOfTask(), np.random.default_rng(1)
        for turn in range(4):
            labels, truth = world.window()
            moved = expit(logit(truth) + moves * (-1) ** turn)
            labels = (rng.random(len(labels)) < moved).astype(np.float32)
            found = after(lead, labels, own=np.full_like(truth, 0.3), pseudo=truth)
        assert found is not None
        leads.append(found)
    assert leads[0].at_least > 0.05
    assert leads[1].at_least > 0.05


def test_a_lead_does_not_depend_on_the_scale_and_shift_of_the_models_logits() -> None:
    world, plain, moved = Labels(), LeadOfTask(), LeadOfTask()
    for _ in range(3):
        labels, truth = world.window()
        own = blurred(world, truth, by=1.0)
        one = after(plain, labels, own=own, pseudo=truth)
        two = after(moved, labels, own=expit(0.5 * logit(own) - 0.4), pseudo=truth)
    assert one is not None
    assert two is not None
    assert one.at_least > 0
    assert two.lead == pytest.approx(one.lead, abs=2e-3)


def test_a_teacher_that_says_more_than_it_knows_is_softened_to_what_it_knows() -> None:
    world, lead = Labels(), LeadOfTask()
    for _ in range(4):
        labels, truth = world.window()
        pseudo = blurred(world, truth, by=2.5)
        found = after(lead, labels, own=np.full_like(truth, 0.3), pseudo=pseudo)
    assert found is not None
    known = 1 / (1 + 2.5**2)  # the share of its logits' variance that is truth's, whose standard deviation is 1
    assert found.softening.factor == pytest.approx(known, abs=0.06)
    softer = found.softening.of(pseudo)
    assert cross_entropy(softer, truth) < 0.8 * cross_entropy(pseudo, truth)
    assert np.isnan(found.softening.of(np.array([np.nan, 1], dtype=np.float32))).tolist() == [True, False]


@pytest.mark.parametrize("shift", [0, 1])
def test_pseudo_labels_that_say_no_more_than_the_teacher_knows_stay_as_they_are(shift: int) -> None:
    world, lead = Labels(), LeadOfTask()
    for _ in range(4):
        labels, truth = world.window()
        pseudo = expit(logit(truth) + shift).astype(np.float32)
        found = after(lead, labels, own=np.full_like(truth, 0.3), pseudo=pseudo)
    assert found is not None
    assert found.softening.of(pseudo) is pseudo


def test_fewer_than_100_positives_tell_no_lead() -> None:
    world, lead = Labels(shift=-5.0, spread=0.5), LeadOfTask()
    found = [after(lead, labels, own=truth, pseudo=truth) for labels, truth in (world.window() for _ in range(9))]
    assert found == [None] * 9, "about 15 positives a window, and four windows count"


def test_a_teacher_that_knows_what_the_model_knows_has_no_lead() -> None:
    world, lead = Labels(), LeadOfTask()
    for _ in range(6):
        labels, truth = world.window()
        found = after(lead, labels, own=truth, pseudo=truth)
    assert found is not None
    assert found.lead == pytest.approx(0, abs=2e-3)
    assert found.at_least <= 0


def test_a_teacher_that_orders_the_wrong_way_round_has_no_lead() -> None:
    world, lead = Labels(), LeadOfTask()
    for _ in range(4):
        labels, truth = world.window()
        found = after(lead, labels, own=np.full_like(truth, 0.99), pseudo=1 - truth)
    assert found is not None
    assert found.lead == pytest.approx(0, abs=1e-6), "against the base rate; the model is far worse"


@pytest.mark.slow
def test_noise_never_has_a_lead_not_even_over_a_bad_model() -> None:
    for seed in range(20):
        world, lead = Labels(seed), LeadOfTask()
        for _ in range(10):
            labels, truth = world.window()
            found = after(lead, labels, own=np.full_like(truth, 0.9), pseudo=world.rng.permutation(truth))
            assert found is None or found.lead == pytest.approx(0, abs=1e-12), "it counts as the base rate"


def test_examples_without_label_or_pseudo_label_do_not_count() -> None:
    world, with_gaps, without = Labels(), LeadOfTask(), LeadOfTask()
    for _ in range(3):
        labels, truth = world.window()
        own = np.full_like(truth, 0.3)
        few_labels, few_pseudo = labels.copy(), truth.copy()
        few_labels[::3], few_pseudo[1::3] = np.nan, np.nan
        one = after(with_gaps, few_labels, own=own, pseudo=few_pseudo)
        two = after(without, labels[2::3], own=own[2::3], pseudo=truth[2::3])
    assert one == two is not None


def test_a_window_without_a_pseudo_label_changes_nothing() -> None:
    world, with_gap, without = Labels(), LeadOfTask(), LeadOfTask()
    for turn in range(3):
        labels, truth = world.window()
        own = np.full_like(truth, 0.3)
        one, two = (after(lead, labels, own=own, pseudo=truth) for lead in (with_gap, without))
        if turn == 1:
            assert after(with_gap, labels, own=own, pseudo=np.full_like(truth, np.nan)) == one
    assert one == two


def test_a_weight_counts_as_so_many_examples() -> None:
    world, once, twice = Labels(), LeadOfTask(), LeadOfTask()
    for _ in range(3):
        labels, truth = world.window()
        own, weights = np.full_like(truth, 0.3), np.where(labels == 0, np.float32(2), np.float32(1))
        one = once.after(labels_B=labels, weights_B=weights, own_B=own, pseudo_B=truth)
        more = np.concatenate([np.arange(len(labels)), np.flatnonzero(labels == 0)])
        two = after(twice, labels[more], own=own[more], pseudo=truth[more])
    assert one is not None
    assert two is not None
    assert one.lead == pytest.approx(two.lead, abs=1e-4)


@pytest.mark.parametrize(("age", "expected"), [(0, False), (15, False), (20, True), (40, True)])
def test_a_snapshot_is_old_from_two_windows_on(age: float, expected: bool) -> None:
    window = Window(index=3, start=100, end=110)
    assert is_old(age + np.array([0.5, np.nan, 9.0]), window) is expected


def test_examples_that_no_snapshot_scored_have_no_old_one() -> None:
    assert is_old(np.full(3, np.nan), Window(index=3, start=100, end=110)) is False
