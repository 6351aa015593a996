"""The findings as tables, for a page (Markdown) and for a terminal."""

from collections.abc import Sequence

from exfm.planning.sizes import bytes_text
from exfm.report.breakdown.layers import Group
from exfm_bench.serving.blocks import FIGURES, STATISTICS, Series
from exfm_bench.serving.layers import MeanBreakdown
from exfm_bench.serving.measuring import Measured
from exfm_bench.serving.memory import NUM_SETTLING, Grown
from exfm_bench.serving.peers import PeersFound
from exfm_bench.serving.sweep import SweepFound
from exfm_bench.serving.targets import Judged
from exfm_bench.table import Table

TITLES = {"p50_ms": "P50", "p99_ms": "P99", "cpu_ms": "CPU"}


def scenario_text(measured: Measured) -> str:
    """Return model, candidates and load, for people."""
    load = f"{measured.load:.0%} open ({measured.requests_per_s:.1f}/s)" if measured.load else "closed"
    return f"{measured.scenario.model}, {measured.scenario.candidates}, {load}"


def of_scenarios(every: Sequence[Measured]) -> Table:
    """Return every server under every load."""
    heads = (
        "model, candidates, load", "served", "P50 ms", "P99 ms", "CPU ms", "shards'", "client's",
        "P50 ratio", "P99 ratio", "CPU ratio", "scores", "failed",
    )  # fmt: skip
    rows = []
    for measured in every:
        first, what = measured.unsharded, scenario_text(measured)
        rows.append((what, first.name, *_figures(first), "1", "1", "1", "", str(first.num_failed)))
        others = [measured.same, *(series for _, series in measured.sharded)]
        differences = ["", *(f"{one:.1e}" for one in measured.score_differences)]
        for series, difference in zip(others, differences, strict=True):
            ratios = [str(series.ratio(statistic, first)) for statistic in STATISTICS]
            rows.append((what, series.name, *_figures(series), *ratios, difference, str(series.num_failed)))
    return Table(heads, rows, num_words=2)


def of_targets(found: Sequence[Judged]) -> Table:
    """Return every target, and whether it was met."""
    heads = ("model, candidates, load", "served", "what", "at most", "ratio", "A/A", "target")
    rows = [
        (
            scenario_text(one.measured),
            str(one.variant),
            TITLES[one.target.statistic],
            f"{one.target.most:g}",
            str(one.ratio),
            str(one.of_same),
            one.verdict,
        )
        for one in found
    ]
    return Table(heads, rows, num_words=3)


def layers_of(every: Sequence[Measured]) -> list[tuple[str, Sequence[MeanBreakdown]]]:
    """Return what servers were traced, and their layers, once for all loads of the same servers."""
    first_loads = (one for one in every if one.load == one.scenario.loads[0])
    return [(f"{one.scenario.model}, {one.scenario.candidates}", one.layers) for one in first_loads]


def of_layers(every: Sequence[tuple[str, Sequence[MeanBreakdown]]]) -> Table:
    """Return where the time of a request goes at each server, one request at a time."""
    traced = [one for _, layers in every for one in layers]
    groups = [
        group
        for group in Group
        if any(of.get(group) for one in traced for of in (one.wall_ms, one.shard_ms, one.cpu_ms))
    ]
    rows = []
    for what, layers in every:
        for one in layers:
            for kind, group_ms in (("wall", one.wall_ms), ("slowest shard's wall", one.shard_ms), ("CPU", one.cpu_ms)):
                if not group_ms:
                    continue
                figures = (f"{group_ms[group]:.2f}" if group_ms[group] else "" for group in groups)
                rows.append((what, one.name, kind, *figures, f"{sum(group_ms.values()):.2f}"))
    return Table(("model, candidates", "served", "ms", *groups, "all"), rows, num_words=3)


def of_costs(every: Sequence[tuple[str, Sequence[MeanBreakdown]]]) -> Table:
    """Return what each server's layers take more of a request's wall time than the first one's."""
    groups = [group for group in Group if any(one.wall_ms[group] for _, layers in every for one in layers)]
    rows = [
        (what, one.name, *(f"{cost:+.2f}" for cost in (*costs, sum(costs))))
        for what, (first, *others) in every
        for one in others
        for costs in [[one.wall_ms[group] - first.wall_ms[group] for group in groups]]
    ]
    return Table(("model, candidates", "more ms than unsharded", *groups, "all"), rows, num_words=2)


def of_sweep(found: SweepFound) -> Table:
    """Return every size of tables."""
    heads = ("rows a table", "tables", "unsharded P50 ms", "over the fewest rows", "sharded P50 ms",
             "over the fewest rows", "sharded / unsharded")  # fmt: skip
    first = found.sizes[0]
    rows = [
        (
            f"{one.rows:,}",
            bytes_text(one.table_bytes),
            f"{one.unsharded.median('p50_ms').value:.2f}",
            str(one.unsharded.ratio("p50_ms", first.unsharded)),
            f"{one.sharded.median('p50_ms').value:.2f}",
            str(one.sharded.ratio("p50_ms", first.sharded)),
            str(one.sharded.ratio("p50_ms", one.unsharded)),
        )
        for one in found.sizes
    ]
    return Table(heads, rows, num_words=0)


def of_memory(found: Sequence[Grown]) -> Table:
    """Return every process, and how its memory grew."""
    heads = ("process", "requests", "MiB after a fifth", "MiB at the end", "B a request", "failed")
    rows = [
        (
            one.process,
            f"{one.requests_a_part * len(one.anonymous_bytes):,}",
            f"{one.anonymous_bytes[NUM_SETTLING - 1] / 2**20:.1f}",
            f"{one.anonymous_bytes[-1] / 2**20:.1f}",
            f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]",
            str(one.num_failed),
        )
        for one in found
        for slope in [one.bytes_a_request]
    ]
    return Table(heads, rows)


def of_peers(found: PeersFound) -> Table:
    """Return every peer, slower than sharded serving or not."""
    heads = ("served", "tables", "P50 ms", "P99 ms", "CPU ms", "client's", "P50 over sharded", "scores", "failed")
    ours, theirs = bytes_text(found.int8_bytes), bytes_text(found.fp32_bytes)
    every = [(series, ours, "") for series in (found.unsharded, found.same, found.sharded)]
    every += [
        (series, theirs, f"{difference:.1e}")
        for (_, series), difference in zip(found.peers, found.score_differences, strict=True)
    ]
    rows: list[Sequence[str]] = []
    for series, tables, difference in every:
        p50, p99, cpu, _, client = _figures(series)
        times = str(found.times_slower(series))
        rows.append((series.name, tables, p50, p99, cpu, client, times, difference, str(series.num_failed)))
    rows += [(why, *([""] * (len(heads) - 1))) for why in found.missing]
    return Table(heads, rows, num_words=1)


def _figures(series: Series) -> list[str]:
    return [f"{series.median(figure).value:.2f}" for figure in FIGURES]
