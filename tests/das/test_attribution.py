"""Labels are those of plain loops, and only attached feedback makes them."""

from collections import Counter

import polars as pl
from brute_force import (
    KINDS,
    LENGTH,
    RULES,
    Reaction,
    Shown,
    labels_by_hand,
    reaction_frame,
    shown_frame,
    states_by_hand,
)
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from exfm.das.accounts import feedback_states
from exfm.das.attribution import ARRIVAL, FEEDBACK_STATES, ROW, make_labels, unique_impressions

shown_rows = st.lists(
    st.builds(Shown, key=st.integers(0, 6), time=st.integers(LENGTH, 4 * LENGTH - 1)),
    unique_by=lambda one: one.key,
    min_size=1,
    max_size=6,
)
reaction_rows = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.integers(0, 5 * LENGTH),
        st.sampled_from(KINDS),
        st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0]),
        st.sampled_from("012"),
    ),
    max_size=25,
).map(lambda rows: [Reaction(*content, row=row) for row, content in enumerate(rows)])
closings = st.fixed_dictionaries({window: st.sampled_from("012") for window in range(5)})


def labels_of(shown: list[Shown], reactions: list[Reaction]) -> dict[int, dict[str, int]]:
    rows = make_labels(shown_frame(shown), reaction_frame(reactions), RULES).drop("time", ARRIVAL, ROW)
    return {row.pop("id"): row for row in rows.iter_rows(named=True)}


def test_each_reduction_looks_at_the_values_in_its_time() -> None:
    dwells = [(12, 2.0), (15, 4.0), (19, 1.0), (23, 9.0)]  # for max until 16, min 19, last 22, sum 25
    reactions = [Reaction(1, time, "dwell", value, "0", row) for row, (time, value) in enumerate(dwells)]
    assert labels_of([Shown(1, 10)], reactions) == {
        1: {"label.any": 0, "label.max": 1, "label.min": 0, "label.last": 0, "label.sum": 1}
    }


def test_feedback_counts_from_the_impression_to_the_very_end_of_its_attribution_window() -> None:
    shown = [Shown(key, 10) for key in range(4)]
    clicks = [Reaction(key, time, "click", 0.0, "0", key) for key, time in enumerate((9, 10, 13, 14))]
    assert [labels["label.any"] for labels in labels_of(shown, clicks).values()] == [0, 1, 1, 0]


def test_repeated_feedback_counts_once_in_a_sum() -> None:
    twice = [Reaction(1, 12, "dwell", 2.0, arrival, 0) for arrival in "01"]
    assert labels_of([Shown(1, 10)], twice)[1]["label.sum"] == 0
    assert labels_of([Shown(1, 10)], [*twice, Reaction(1, 13, "dwell", 2.0, "0", 1)])[1]["label.sum"] == 1


def test_a_key_counts_once_as_it_first_arrived_and_not_again_in_the_next_window() -> None:
    rows = pl.DataFrame({"id": [1, 1, 2], ARRIVAL: ["2", "1", "1"], ROW: [0, 5, 6]})
    before = pl.DataFrame({"id": [2]})
    found = unique_impressions(rows, before=before, key="id")
    assert found.to_dicts() == [{"id": 1, ARRIVAL: "1", ROW: 5}]


@given(shown_rows, reaction_rows)
def test_labels_are_those_of_plain_loops(shown: list[Shown], reactions: list[Reaction]) -> None:
    assert labels_of(shown, reactions) == labels_by_hand(shown, reactions)


@given(shown_rows, reaction_rows)
def test_the_order_of_rows_changes_no_label(shown: list[Shown], reactions: list[Reaction]) -> None:
    labels = make_labels(shown_frame(shown), reaction_frame(reactions), RULES)
    mixed = reaction_frame(reactions).sample(fraction=1, shuffle=True, seed=1)
    assert_frame_equal(make_labels(shown_frame(shown).reverse(), mixed, RULES), labels)


@given(shown_rows, reaction_rows, closings)
def test_each_row_of_feedback_has_the_state_that_plain_loops_give(
    shown: list[Shown], reactions: list[Reaction], known: dict[int, str]
) -> None:
    states = states_by_hand(shown, reactions, known)
    for window in range(6):
        found = feedback_states(reaction_frame(reactions), shown_frame(shown), RULES, window=window, known=known)
        expected = Counter(states[one] for one in reactions if one.time // LENGTH == window)
        assert {state: count for state, count in found.items() if count} == expected
        assert set(found) == set(FEEDBACK_STATES)


@given(shown_rows, reaction_rows)
def test_attached_feedback_alone_makes_the_labels(shown: list[Shown], reactions: list[Reaction]) -> None:
    states = states_by_hand(shown, reactions, known={})
    attached = [one for one in reactions if states[one] == "attached"]
    assert labels_of(shown, attached) == labels_of(shown, reactions)
