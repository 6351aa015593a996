"""A comparison as one page that needs nothing else: plots lie in it, and it runs no script."""

from exfm.artifact.stores import write_file
from exfm.evaluation.amortisation import amortisation
from exfm.evaluation.comparison import Comparison
from exfm.report.distillation.plots import changes_by_age, changes_by_method, changes_by_size, cost_by_verticals
from exfm.report.distillation.series import cold_rows, taught, told_changes, varied, verdict
from exfm.report.html import environment


def write_page(comparison: Comparison, uri: str) -> None:
    """Write the page to a URI, whole."""
    write_file(uri, render_page(comparison).encode())


def render_page(comparison: Comparison) -> str:
    """Return the page."""
    pages = environment()
    config, costs = comparison.config, amortisation(comparison)
    pages.filters["cold_rows"] = cold_rows
    return pages.get_template("comparison.html.jinja").render(
        comparison=comparison,
        plots={vertical.name: changes_by_method(vertical) for vertical in comparison.verticals},
        size_plot=changes_by_size(comparison)
        if any(varied(vertical, config, "size") for vertical in comparison.verticals)
        else None,
        age_plots={
            vertical.name: changes_by_age(vertical, config)
            for vertical in comparison.verticals
            if varied(vertical, config, "age")
        },
        costs=costs,
        cost_plot=cost_by_verticals(costs, num_verticals=len(comparison.verticals)) if costs else None,
        verdicts=[verdict(comparison, size, costs.pays_from(size)) for size in config.label_only_sizes]
        if costs
        else [],
        taught=taught(config),
        variants={variant.name: told_changes(variant) for variant in config.teachers},
    )
