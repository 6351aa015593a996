"""What a foundation model costs, and against what it pays: known by hand, then measured."""

from pathlib import Path

import pytest

from exfm.artifact.storage import Ref
from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError
from exfm.evaluation.amortisation import Amortisation, amortisation
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.events.examples import ExampleTable
from exfm.report.distillation.page import render_page

SMALL = ComparisonConfig(
    num_seeds=1, tuning_windows=3, weights=(1.0,), learning_rates=(0.003,), methods=("label", "auto"),
    num_bootstrap_samples=100, label_only_sizes=(2, 16),
)  # fmt: skip


def test_the_more_vertical_models_share_it_the_less_a_foundation_model_costs_each() -> None:
    costs = Amortisation(foundation_cpu_s=60, distilled_cpu_s=5, label_only_cpu_s={1: 4, 4: 15, 16: 65, 32: 5})
    assert [costs.shared_cpu_s(number) for number in (1, 2, 3)] == [65, 35, 25]
    assert costs.pays_from(1) is None  # no teacher is less than one
    assert costs.pays_from(32) is None
    assert costs.pays_from(4) == 6  # 60 / 6 + 5 = 15
    assert costs.pays_from(16) == 1


@pytest.mark.slow
def test_cost_and_gain_of_larger_label_only_models_are_beside_those_of_auto(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    found = compare(
        SMALL, name="small", verticals=[vertical_config], teachers={"search-ads": ("fm",)},
        foundations={"fm": foundation}, examples=examples, out=str(tmp_path / "comparison.json"),
    )  # fmt: skip
    (of_the_run,), (vertical,) = found.sized, found.verticals
    assert (of_the_run.size, of_the_run.cost.num_parameters) == (1, found.num_foundation_parameters)
    assert list(vertical.costs) == ["label", "auto"]
    assert list(vertical.settings) == ["fm"]
    assert vertical.costs["label"].num_parameters == vertical.costs["auto"].num_parameters
    large = vertical.larger[16].cost
    assert large.num_parameters > 10 * vertical.costs["label"].num_parameters
    assert large.cpu_s() > vertical.costs["label"].cpu_s() > 0
    click = vertical.tasks["click"]
    assert list(click.own().methods) == ["label", "auto"]
    larger, auto = click.larger[16], click.own().methods["auto"]
    assert larger.delta_ne is not None
    assert larger.delta_ne_of_auto is not None
    assert auto.delta_ne is not None
    assert larger.delta_ne_of_auto.value == pytest.approx(larger.delta_ne.value - auto.delta_ne.value)
    costs = amortisation(found)
    assert costs is not None
    assert costs.foundation_cpu_s == of_the_run.cost.cpu_s()
    assert costs.label_only_cpu_s[16] == large.cpu_s()
    page = render_page(found)
    assert "A label-only model of 16 times the size is worse than auto in" in page
    assert "search-ads, label-only times 2" in page


def test_larger_models_need_auto_beside_them() -> None:
    written = {"methods": ["label", "kd"], "label_only_sizes": [4]}
    with pytest.raises(ConfigError, match="auto is missing, which label_only_sizes are compared with"):
        ComparisonConfig.parse(written, source="comparison")


@pytest.mark.slow
def test_a_size_that_no_model_can_have_is_told_before_anything_is_trained(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    wide = vertical_config.model_copy(update={"model": vertical_config.model.model_copy(update={"dim_factor": 8})})
    with pytest.raises(ConfigError, match=r"label_only_sizes: vertical model 'search-ads': size 16 .* dim_factor"):
        compare(
            SMALL, name="small", verticals=[wide], teachers={"search-ads": ("fm",)}, foundations={"fm": foundation},
            examples=examples, out=str(tmp_path / "comparison.json"),
            on_window=lambda done, of: pytest.fail("something was trained"),
        )  # fmt: skip
