"""New ids: those that a vertical model's own slice had in no earlier window."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from exfm.artifact.storage import Ref
from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.first_seen import KNOWN, NEW, NO_ID, SeenValues
from exfm.evaluation.stage import compare
from exfm.events.examples import ExampleTable
from exfm.report.distillation.page import render_page

SMALL = ComparisonConfig(
    num_seeds=1, tuning_windows=3, weights=(1.0,), learning_rates=(0.003,), methods=("label", "ah"),
    num_bootstrap_samples=100, cold_start=("user_id", "ad_id"),
)  # fmt: skip


def test_an_id_is_new_in_all_of_its_first_window_and_known_from_then_on() -> None:
    seen = SeenValues(("user", "item"))
    first = seen.add(pl.DataFrame({"user": [1, 1, None, 2], "item": ["a", "b", "a", None]}))
    np.testing.assert_array_equal(first["user"], [NEW, NEW, NO_ID, NEW])
    np.testing.assert_array_equal(first["item"], [NEW, NEW, NEW, NO_ID])
    second = seen.add(pl.DataFrame({"user": [2, 3, None, 1], "item": ["a", None, "c", "c"]}))
    np.testing.assert_array_equal(second["user"], [KNOWN, NEW, NO_ID, KNOWN])
    np.testing.assert_array_equal(second["item"], [KNOWN, NO_ID, NEW, NEW])
    np.testing.assert_array_equal(seen.add(pl.DataFrame({"user": [3, 4], "item": ["c", "d"]}))["user"], [KNOWN, NEW])


@pytest.mark.slow
def test_figures_of_new_and_of_known_ids_are_of_all_examples_between_them(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    found = compare(
        SMALL, name="small", verticals=[vertical_config], teachers={"search-ads": ("fm",)},
        foundations={"fm": foundation}, examples=examples, out=str(tmp_path / "comparison.json"),
    )  # fmt: skip
    (vertical,) = found.verticals
    click = vertical.tasks["click"]
    by_window = {window.index: examples.read(window, domains=("search",)) for window in examples.windows}
    new = sum(
        int((~frame["ad_id"].is_in(before["ad_id"].implode())).sum())
        for index in vertical.windows
        for frame, before in [(by_window[index], pl.concat([by_window[i] for i in by_window if i < index]))]
    )
    cold = click.cold_start["ad_id"]
    assert 0 < cold.new.num_examples == new
    assert cold.new.num_examples + cold.known.num_examples == click.num_examples  # every example has an ad
    assert list(cold.known.own().methods) == ["label", "ah"]
    known = cold.known.own().methods["ah"].normalized_entropy
    assert known is not None
    whole = click.own().methods["ah"].normalized_entropy
    assert whole is not None
    assert known.value != whole.value
    page = render_page(found)
    assert "Cold start by <code>user_id</code>" in page
    assert f"{known.value:.4f}" in page


@pytest.mark.slow
@pytest.mark.parametrize("feature", ["nothing", "clicked_ads", "price"])
def test_a_feature_without_one_id_a_row_is_refused(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path, feature: str
) -> None:
    with pytest.raises(ConfigError, match=f"cold_start: the schema has no sparse feature {feature} of kind single"):
        compare(
            SMALL.model_copy(update={"cold_start": (feature,)}), name="small", verticals=[vertical_config],
            teachers={"search-ads": ("fm",)}, foundations={"fm": foundation}, examples=examples,
            out=str(tmp_path / "comparison.json"), on_window=lambda done, of: pytest.fail("something was trained"),
        )  # fmt: skip
