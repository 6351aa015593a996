"""A teacher's lead counts where it is more than chance."""

import numpy as np
import pytest
from scipy.special import expit, logit

from exfm.distill.lead import Lead, LeadOfTask
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


@pytest.mark.parametrize(("scale", "shift"), [(2.0, 0.0), (1.0, 1.0), (1.0, -1.0), (2.0, 1.0)])
def test_calibrated_pseudo_labels_are_the_truth_where_the_teachers_are_too_far_apart_or_shifted(
    scale: float, shift: float
) -> None:
    found, pseudo, truth = calibrated(scale, shift)
    assert np.abs(pseudo - truth).mean() > 0.09
    assert np.abs(found.calibration.probabilities(pseudo) - truth).mean() < 0.025
    assert found.reliability == pytest.approx(1 / scale, abs=0.1)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_pseudo_labels_that_say_no_more_than_the_teacher_knows_stay_as_they_are(scale: float) -> None:
    found, pseudo, _ = calibrated(scale, scale - 1)
    np.testing.assert_allclose(found.calibration.probabilities(pseudo), pseudo, atol=0.01)
    assert found.reliability == pytest.approx(1, abs=0.05)


def calibrated(scale: float, shift: float) -> tuple[Lead, Floats, Floats]:
    """Return the lead of a teacher who changes the truth's logits, with a window's pseudo-labels and truth."""
    world, lead = Labels(), LeadOfTask()
    for _ in range(4):
        labels, truth = world.window()
        pseudo = expit(scale * logit(truth) + shift).astype(np.float32)
        found = after(lead, labels, own=np.full_like(truth, 0.3), pseudo=pseudo)
    assert found is not None
    return found, pseudo, truth


def test_a_teacher_that_says_more_than_it_knows_is_calibrated_to_what_it_knows() -> None:
    world, lead = Labels(), LeadOfTask()
    for _ in range(4):
        labels, truth = world.window()
        pseudo = blurred(world, truth, by=2.5)
        found = after(lead, labels, own=np.full_like(truth, 0.3), pseudo=pseudo)
    assert found is not None
    known = 1 / (1 + 2.5**2)  # the share of its logits' variance that is truth's, whose standard deviation is 1
    assert found.reliability == pytest.approx(known, abs=0.03)
    assert found.calibration.scale == pytest.approx(known, abs=0.06)
    calibrated = found.calibration.probabilities(pseudo)
    assert cross_entropy(calibrated, truth) < 0.8 * cross_entropy(pseudo, truth)
    gap = np.array([np.nan, 1], dtype=np.float32)
    assert np.isnan(found.calibration.probabilities(gap)).tolist() == [True, False]


def test_a_lead_is_not_known_before_100_positives_however_many_windows_they_take() -> None:
    world, lead = Labels(shift=-5.0, spread=0.5), LeadOfTask()
    num_positives, num_windows = 0.0, 0
    while num_positives < 130:
        labels, truth = world.window()
        num_positives, num_windows = num_positives + labels.sum(), num_windows + 1
        assert (after(lead, labels, own=truth, pseudo=truth) is not None) == (num_positives >= 100)
    assert num_windows > 4


def test_windows_of_many_examples_and_few_positives_are_four_all_the_same() -> None:
    lead, labels = LeadOfTask(), np.zeros(30_000, dtype=np.float32)
    labels[:20] = 1
    for _ in range(8):
        assert after(lead, labels, own=labels, pseudo=labels) is None, "80 positives in four windows"


@pytest.mark.parametrize(("num_examples", "num_windows"), [(2_000, 4), (100, 20)])
def test_a_lead_is_of_four_windows_or_of_as_many_as_have_400_positives(num_examples: int, num_windows: int) -> None:
    world, long, rng = Labels(), LeadOfTask(), np.random.default_rng(3)
    windows = [(labels[:num_examples], truth[:num_examples]) for labels, truth in (world.window() for _ in range(30))]
    positives = np.cumsum([labels.sum() for labels, _ in reversed(windows)])
    needed = max(4, int(np.searchsorted(positives, 400)) + 1)
    assert needed == pytest.approx(num_windows, abs=0 if num_windows == 4 else 8)
    own = [rng.permutation(truth) for _, truth in windows]
    only_those = LeadOfTask()
    for place, (labels, truth) in enumerate(windows):
        of_all = after(long, labels, own=own[place], pseudo=truth)
        if place >= len(windows) - needed:
            of_those = after(only_those, labels, own=own[place], pseudo=truth)
    assert of_all == of_those is not None


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
