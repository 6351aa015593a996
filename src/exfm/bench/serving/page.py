"""The page that says what was found."""

from collections.abc import Sequence

from exfm.bench.serving import tables
from exfm.bench.serving.config import ServingBenchConfig
from exfm.bench.serving.findings import Findings
from exfm.bench.serving.layers import NUM_REQUESTS, rounds_of_start
from exfm.bench.serving.memory import FLAT_BYTES, NUM_PARTS, NUM_SETTLING, Grown
from exfm.bench.serving.models import NETWORKS
from exfm.bench.serving.peers import FASTER, SMALLER, PeersFound, is_faster
from exfm.bench.serving.ratios import MAX_HALF_WIDTH, MAX_OWN_HALF_WIDTH
from exfm.bench.serving.starts import OPEN_REQUESTS
from exfm.bench.serving.sweep import FLAT, SweepFound, is_flat
from exfm.bench.serving.targets import MIN_BLOCKS, MIN_REQUESTS_P99, MIN_STARTS, judged
from exfm.models.config import NetworkConfig
from exfm.planning.sizes import bytes_text


def page(findings: Findings, *, picture: str) -> str:
    """Return the page in Markdown; `picture` is the name of the file beside it."""
    sections = ["# Sharded beside unsharded serving", _how(findings), *_unfinished(findings), f"![ratios]({picture})"]
    found = judged(findings.cases)
    if found:
        sections += ["## Targets", tables.of_targets(found).markdown(), _rule()]
    if findings.cases:
        sections += ["## All servers", tables.of_cases(findings.cases).markdown(), _models(findings)]
        layers = tables.layers_of(findings.cases)
        sections += ["## Where the time goes", tables.of_layers(layers).markdown(), _traced(findings.config)]
        sections += ["## What sharding costs", tables.of_costs(layers).markdown(), _costs()]
    if findings.sweep:
        sections += ["## More rows, the same requests", tables.of_sweep(findings.sweep).markdown()]
        sections += [flatness(findings.sweep)]
    if findings.memory:
        sections += ["## Memory", tables.of_memory(findings.memory).markdown(), memory_text(findings.memory)]
    if findings.peers:
        sections += ["## Other servers", tables.of_peers(findings.peers).markdown(), beside_peers(findings.peers)]
        layers = [(f"{findings.peers.model}, {findings.peers.candidates}", findings.peers.layers)]
        sections += ["Where exfm's time goes, as traced after the blocks:", tables.of_layers(layers).markdown()]
    return "\n\n".join(sections) + "\n"


def flatness(found: SweepFound) -> str:
    """Return whether latency stays flat while tables grow."""
    first, last = found.sizes[0], found.sizes[-1]
    parts = [
        f"{name} {is_flat(found.growth(sharded=sharded))} (P50 ratio {found.growth(sharded=sharded)})"
        for name, sharded in (("unsharded", False), ("sharded", True))
    ]
    chance = found.same.ratio("p50_ms", first.unsharded)
    return (
        f"From {first.rows:,} to {last.rows:,} rows a table, latency is {', '.join(parts)}; flat means a ratio of at "
        f"most {FLAT:g}; that of a second server of the fewest rows is {chance}."
    )


def memory_text(found: Sequence[Grown]) -> str:
    """Return whether memory stays flat while requests go on."""
    growing = [one.process for one in found if not one.is_flat]
    verdict = f"grows, or that is not resolved: {', '.join(growing)}" if growing else "is flat"
    return (
        f"Memory {verdict}. It is what a process allocated, read "
        f"{NUM_PARTS} times, of which the first {NUM_SETTLING} do not count; the slope is the median of those between "
        f"any two (Theil and Sen), and flat is one whose interval ends at {FLAT_BYTES:g} B a request or below, if no "
        "request failed."
    )


def beside_peers(found: PeersFound) -> str:
    """Return whether the targets beside other servers were met."""
    how = (
        f"{found.model}, {found.candidates} candidates, closed loop, {found.threads} of torch's threads in exfm's "
        "ranker and in tuned peers, which also get raw tensors by gRPC and exfm's environment for memory and "
        "threads; as documented, peers get JSON by REST and have all defaults. Peers hold an nn.EmbeddingBag in fp32 "
        f"for each feature, of {found.times_smaller:.2f} times the bytes ({SMALLER:g} or more: "
        f"{'met' if found.times_smaller >= SMALLER else 'not met'})."
    )
    tuned = next((series for peer, series in found.peers if peer.name == "KServe" and peer.tuned), None)
    if tuned is None:
        return how
    times, verdict = found.times_slower(tuned), is_faster(found, tuned)
    return (
        f"{how} Sharded serving is {times} times as fast as KServe, tuned ({FASTER:g} or more: {verdict}); fewer than "
        f"{MIN_BLOCKS} blocks, or a peer that fails a request, resolve nothing."
    )


def _how(findings: Findings) -> str:
    config = findings.config
    facts = "\n".join(f"- {name}: {fact}" for name, fact in findings.facts.items())
    return (
        f"{facts}\n\n"
        f"All servers of a case run at the same time, on the same two cores, and are started {_times(config)}. Each of "
        f"{config.blocks} blocks has the same requests for each of them, in {config.turns} parts, each in a random "
        f"order of the servers and after {config.warmup} that do not count (open loops in parts of {OPEN_REQUESTS} or "
        "more, or in one). Ratios are to the unsharded server in the same block: the median over a start's blocks, in "
        "the mean of all starts, with Student's 95 % interval; of one start, as other servers have, the median's of "
        "order statistics, which does not know how another start would have been. A/A is a second unsharded server. "
        "CPU time is that of a mean request at all of a way's processes, without the client's. Open loops have Poisson "
        "arrivals, and latency counts from when a request was due. Models have random weights in int8: "
        f"{config.bytes_factor:g} of the bytes of large ones, rows {config.dim_factor:g} as wide, seed {config.seed}. "
        f"{_layers(NETWORKS[config.network])}, which exfm computes in {config.dense_precision}; models with more and "
        "more rows have small ones."
    )


def _times(config: ServingBenchConfig) -> str:
    num_starts = len(config.blocks_of_starts())
    return f"{num_starts} times in random order, for as many parts of the blocks" if num_starts > 1 else "once"


def _unfinished(findings: Findings) -> list[str]:
    """Return which cases want starts that are still to come, or never came; nothing if none does."""
    planned = len(findings.config.blocks_of_starts())
    begun = [(tables.case_text(one), len(one.unsharded.starts)) for one in findings.cases]
    parts = [f"{what}: {number} of {planned}" for what, number in begun if number < planned]
    return [f"Starts that were measured: {'; '.join(parts)}."] if parts else []


def _layers(network: NetworkConfig) -> str:
    top = "-".join(map(str, network.top_units))
    return f"Their dense layers are {network.num_cross_layers} crosses of rank {network.cross_rank} and {top} units"


def _rule() -> str:
    return (
        f"A target is met if the ratio's interval reaches it and is at most {2 * MAX_OWN_HALF_WIDTH:g} wide, and A/A's "
        f"at most {2 * MAX_HALF_WIDTH:g}; it is not met if the interval lies above, or the sharded server failed a "
        "request, and else not resolved. Nor is one resolved by fewer than "
        f"{MIN_BLOCKS} blocks or {MIN_STARTS} starts, or a P99 by blocks of fewer than {MIN_REQUESTS_P99} requests, of "
        "which it is nearly the slowest. Where a server's memory lies is a start's chance: more starts lessen it, and "
        "more blocks do not. A ranker that holds tables asks shards for the sums of the others alone."
    )


def _traced(config: ServingBenchConfig) -> str:
    num_starts = len(config.blocks_of_starts())
    num_requests = rounds_of_start(num_starts) * NUM_REQUESTS
    return (
        f"Means of the middle half, by latency, of {num_requests} traced requests to each server after each start, of "
        f"{NUM_REQUESTS} at a time, the servers in a random order each time: wall time of the server that is asked and "
        "of its client, which adds up to the latency; that of the shard that took longest in the mean, from when it "
        "was asked until its answer was read, hence network also has what the ranker computed meanwhile; and CPU time, "
        "the shards' too, where RPC service has what torch's other threads computed."
    )


def _costs() -> str:
    return (
        "The same walls, less the unsharded server's: what is more than A/A's is what sharding costs, and what remains "
        "where a target is not met. A trace itself takes some 0.2 ms a shard of it."
    )


def _models(findings: Findings) -> str:
    """Return what was served, by how many threads, and how much scores differ from one another."""
    every = {}
    for one in findings.cases:
        what = f"{one.case.model} with {one.case.candidates} candidates, {bytes_text(one.table_bytes)} of tables"
        every[what] = one.threads
    threads = "; ".join(f"{what}: {number}" for what, number in every.items())
    chosen = "as set" if findings.config.threads else "those with which the unsharded one was fastest"
    spread = min(one.score_spread for one in findings.cases)
    return (
        f"Torch's threads of each server that clients ask, {chosen}: {threads}. A shard has one. Scores are "
        "those of the unsharded server, but for the differences above; their standard deviation is "
        f"{spread:.2g} or more."
    )
