"""The pictures of the page, as SVG."""

import matplotlib as mpl
from matplotlib.figure import Figure

from exfm.evaluation.amortisation import amortisation
from exfm.report.distillation.plots import changes_by_size, cost_by_verticals
from exfm.report.distillation.series import taught
from exfm.report.plots import COLOURS, SETTINGS, svg
from exfm_bench.results.found import Found
from exfm_bench.results.over_worlds import delta_ne, world_mean

SIZES, AGES, COSTS = "results-sizes.svg", "results-ages.svg", "results-costs.svg"


def pictures(found: Found) -> dict[str, bytes]:
    """Return the page's pictures, by the names of their files."""
    comparison = found.movielens.comparison
    drawn = {SIZES: changes_by_size(comparison), AGES: _ages(found)}
    costs = amortisation(comparison)
    return drawn | ({COSTS: cost_by_verticals(costs, num_verticals=len(comparison.verticals))} if costs else {})


def ages_of(found: Found) -> dict[int, str]:
    """Return the teachers of worlds that differ in their age alone, by windows, ascending."""
    older = {one.age: one.name for one in found.tuned[0].config.teachers if one.changed() == ("age",)}
    return dict(sorted(({0: ""} | older).items()))


def _ages(found: Found) -> bytes:
    """Return each method's change of normalized entropy against the age of snapshots, mean of worlds."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axis = figure.subplots()
        for place, method in enumerate(taught(found.tuned[0].config)):
            means = {age: world_mean(found.tuned, teacher, method, delta_ne) for age, teacher in ages_of(found).items()}
            points = {age: mean for age, mean in means.items() if mean}
            axis.errorbar(
                [age + 0.04 * place for age in points],
                [100 * mean.value for mean in points.values()],
                [
                    [100 * (mean.value - mean.low) for mean in points.values()],
                    [100 * (mean.high - mean.value) for mean in points.values()],
                ],
                label=method, color=COLOURS[place % len(COLOURS)], marker="o", elinewidth=1,
            )  # fmt: skip
        axis.axhline(0, color="#999999", linewidth=1)
        axis.set(
            xlabel="windows by which snapshots are older", ylabel="change of NE, 0.01", xticks=list(ages_of(found))
        )
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
        return svg(figure)
