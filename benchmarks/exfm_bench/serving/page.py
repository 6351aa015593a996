"""The page that says what was found."""

from collections.abc import Sequence

from exfm.models.config import NetworkConfig
from exfm.planning.sizes import bytes_text
from exfm_bench.ratios import MAX_HALF_WIDTH, MAX_OWN_HALF_WIDTH
from exfm_bench.serving import tables
from exfm_bench.serving.config import ServingBenchConfig
from exfm_bench.serving.findings import Findings
from exfm_bench.serving.layers import NUM_REQUESTS, rounds_of_start
from exfm_bench.serving.memory import FLAT_BYTES, NUM_PARTS, NUM_SETTLING, Grown
from exfm_bench.serving.models import NETWORKS
from exfm_bench.serving.peers import FASTER, SMALLER, PeersFound, is_faster
from exfm_bench.serving.starts import OPEN_REQUESTS
from exfm_bench.serving.sweep import FLAT, SweepFound, is_flat
from exfm_bench.serving.targets import MIN_BLOCKS, MIN_REQUESTS_P99, MIN_STARTS, judged


def page(findings: Findings, *, picture: str) -> str:
    """Return the page in Markdown; `picture` is the name of the file beside it."""
    sections = ["# Sharded beside unsharded serving", _how(findings), *_unfinished(findings), f"![ratios]({picture})"]
    found = judged(findings.scenarios)
    if found:
        sections += ["## Targets", tables.of_targets(found).markdown(), _rule()]
    if findings.scenarios:
        sections += ["## All servers", tables.of_scenarios(findings.scenarios).markdown(), _models(findings)]
        layers = tables.layers_of(findings.scenarios)
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
        "All servers of a scenario run at the same time, on the same two cores, and are started "
        f"{_times(config)}. Each of {config.blocks} blocks has the same requests for each server, in {config.turns} "
        f"parts (an open loop has parts of at least {OPEN_REQUESTS} requests); each part takes the servers in a random "
        f"order, after {config.warmup} warm-up requests. A ratio is to the unsharded server in the same block. With "
        "several starts it is the mean over starts of the median over a start's blocks, with Student's 95 % interval; "
        "with one start, as for other servers, it is the median with the interval of order statistics, which leaves "
        "out how starts differ. A/A is a second unsharded server. CPU time is that of a mean request in all processes "
        "of a variant, without the client's. Open loops have Poisson arrivals, and latency counts from when a request "
        f"was due. Models have random weights in int8: {config.bytes_factor:g} of the bytes of the large models, rows "
        f"{config.dim_factor:g} as wide, seed {config.seed}. {_layers(NETWORKS[config.network])}, which exfm computes "
        f"in {config.dense_precision}; models of the sweep have small dense layers."
    )


def _times(config: ServingBenchConfig) -> str:
    num_starts = len(config.blocks_of_starts())
    return f"{num_starts} times in random order, each time for a part of the blocks" if num_starts > 1 else "once"


def _unfinished(findings: Findings) -> list[str]:
    """Return which scenarios lack starts that are still to come, or never came; nothing if none does."""
    planned = len(findings.config.blocks_of_starts())
    begun = [(tables.scenario_text(one), len(one.unsharded.starts)) for one in findings.scenarios]
    parts = [f"{what}: {number} of {planned}" for what, number in begun if number < planned]
    return [f"Starts that were measured: {'; '.join(parts)}."] if parts else []


def _layers(network: NetworkConfig) -> str:
    top = "-".join(map(str, network.top_units))
    return f"Their dense layers are {network.num_cross_layers} crosses of rank {network.cross_rank} and {top} units"


def _rule() -> str:
    return (
        f"A target is met if the ratio's interval reaches it and is at most {2 * MAX_OWN_HALF_WIDTH:g} wide, and A/A's "
        f"at most {2 * MAX_HALF_WIDTH:g}. It is not met if the interval lies above it, or the sharded server failed a "
        f"request. Else it is not resolved. At least {MIN_BLOCKS} blocks and {MIN_STARTS} starts resolve a target, and "
        f"for a P99 at least {MIN_REQUESTS_P99} requests a block: of fewer, P99 is nearly the slowest request. Each "
        "start gives a server other memory: more starts reduce that chance, and more blocks do not. A ranker that "
        "holds tables sends shards only the keys of the others."
    )


def _traced(config: ServingBenchConfig) -> str:
    num_starts = len(config.blocks_of_starts())
    num_requests = rounds_of_start(num_starts) * NUM_REQUESTS
    return (
        f"Means of the middle half, by latency, of {num_requests} traced requests to each server after each start, "
        f"{NUM_REQUESTS} at a time, the servers in a random order each time. Wall time is that of the server that gets "
        "requests and of its client, and adds up to the latency. A shard's wall time is that of the slowest shard in "
        "the mean, from sending its lookup to having read its answer, so its network includes what the ranker computed "
        "meanwhile. CPU time includes the shards', and its RPC service what torch's other threads computed."
    )


def _costs() -> str:
    return (
        "The same wall times, less those of the unsharded server. What exceeds A/A's is what sharding costs. Tracing "
        "itself is some 0.2 ms a shard of it."
    )


def _models(findings: Findings) -> str:
    """Return what was served, by how many threads, and how much scores differ from one another."""
    every = {}
    for one in findings.scenarios:
        served = f"{one.scenario.model} with {one.scenario.candidates} candidates"
        every[f"{served}, {bytes_text(one.table_bytes)} of tables"] = one.threads
    threads = "; ".join(f"{what}: {number}" for what, number in every.items())
    chosen = "as set" if findings.config.threads else "those with which the unsharded one was fastest"
    spread = min(one.score_spread for one in findings.scenarios)
    return (
        f"Torch's threads of each server that gets requests, {chosen}: {threads}. A shard has one. Scores are "
        "those of the unsharded server, but for the differences above; their standard deviation is "
        f"{spread:.2g} or more."
    )
