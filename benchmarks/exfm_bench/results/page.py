"""The page that says what was found: all words about figures come from the figures."""

from exfm.evaluation.amortisation import amortisation
from exfm.report.distillation.series import verdict
from exfm_bench.results import tables
from exfm_bench.results.claims import MAX_HURT
from exfm_bench.results.found import MOVIELENS, Found
from exfm_bench.results.newcomers import NEWCOMERS, OCCUPATION
from exfm_bench.results.pictures import AGES, COSTS, SIZES
from exfm_bench.results.served import CANDIDATES


def page(found: Found, *, images: str = "images") -> str:
    """Return the page in Markdown; `images` is where its pictures are, as seen from the page."""
    sections = [
        f"# What distillation gains\n\n{_head(found)}",
        tables.of_claims(found).markdown(),
        "## Conditions",
        tables.of_conditions(found).markdown(),
        _conditions(found),
        "## Reference lines",
        "Trained as `exfm run` trains them, one seed, all windows after the warm-up. Differences of NE in 0.01, with "
        "intervals over windows.",
        tables.of_lines(found).markdown(),
        "## Methods",
        "Change of NE from label-only, in 0.01. *Teacher* is the foundation model itself, on the same examples.",
        tables.of_methods(found).markdown(),
        "Means over vertical models and tasks; transfer ratios over those that have one:",
        tables.of_means(found).markdown(),
        "## Stale and biased teachers",
        "Change of NE from label-only by the age of snapshots, in 0.01, mean of worlds:",
        tables.of_ages(found).markdown(),
        f"![change of NE by age]({images}/{AGES})",
        "Heads and adapters beside `kd`, tuned alike, and calibration (1 is right):",
        tables.of_bias(found).markdown(),
        "## Does `auto` hurt?",
        "Change of NE from label-only by default, nothing tuned, in percent of label-only's NE, mean of worlds. "
        f"Wanted: the interval ends at {MAX_HURT:+.1%} or below.",
        tables.of_hurt(found).markdown(),
        "## Larger foundation models, and what they cost",
        f"{MOVIELENS}: a size multiplies the foundation model's table dims and layer units; 1 is the run's. Change of "
        "NE in 0.01, mean over vertical models and tasks. CPU time is of training and scoring.",
        tables.of_sizes(found).markdown(),
        f"![change of NE by size]({images}/{SIZES})",
        *_costs(found, images),
        "Served: tables encoded as bundles are by default, the dense part in fp32, and the median time of "
        f"{CANDIDATES} candidates in one process with one thread.",
        tables.of_served(found).markdown(),
        "## Cold start",
        f"{MOVIELENS}: *new* are examples whose id came first in their own window, *known* those whose id an earlier "
        "window of the vertical model's domains had. Change of NE from label-only, in 0.01.",
        tables.of_cold(found).markdown(),
    ]
    return "\n\n".join(sections) + "\n"


def _head(found: Found) -> str:
    conditions = [part.conditions for part in (*found.parts().values(), *found.worlds)]
    machines = ", ".join(sorted({one.machine for one in conditions}))
    days = " to ".join(dict.fromkeys((min(one.date for one in conditions), max(one.date for one in conditions))))
    return (
        f"`make results` writes this page. Measured on {machines}, {days}. NE is normalized entropy; less "
        "is better. Brackets are 95 % intervals: of one vertical model over users (or impressions) and seeds, of a "
        f"mean of worlds over {len(found.worlds)} worlds (Student's t). Bold: the interval excludes 0. A case of "
        "a claim is one vertical model and task, unless the claim says otherwise. [Comparing distillation "
        "methods](distillation.md) explains methods and figures."
    )


def _conditions(found: Found) -> str:
    return (
        "Settings: `compare.yaml` in `examples/movielens`, `examples/open_bandit` and `examples/synthetic`, where "
        "worlds differ in the source's seed, and `examples/synthetic/defaults.yaml`. The new vertical, domain "
        f"`{NEWCOMERS}`, is of MovieLens-100K: users of occupation `{OCCUPATION}` who are first seen in the second "
        f"half of the log, with {_share_of_newcomers(found):.1%} of all examples. Its methods have the default weight "
        "and learning rate."
    )


def _share_of_newcomers(found: Found) -> float:
    (vertical,) = found.new_vertical.comparison.verticals
    return next(iter(vertical.tasks.values())).num_examples / found.new_vertical.conditions.num_examples


def _costs(found: Found, images: str) -> list[str]:
    comparison = found.movielens.comparison
    costs = amortisation(comparison)
    if costs is None:
        return []
    verdicts = [verdict(comparison, size, costs.pays_from(size)) for size in comparison.config.label_only_sizes]
    spent = (
        f"CPU-seconds of a vertical model: {costs.distilled_cpu_s:.1f} by `auto`, {costs.label_only_cpu_s[1]:.1f} "
        f"label-only; of the foundation model {costs.foundation_cpu_s:.1f}, once for all."
    )
    return [" ".join([spent, *verdicts]), f"![CPU-seconds of each vertical model]({images}/{COSTS})"]
