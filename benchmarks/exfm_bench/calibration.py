"""A cost model out of measurements of real servers.

CPU times are linear in a plan's work and in how cold servers are, so a least-squares fit gives the prices. What the
scheduler does not count (the latency of a message, the spread of service times, the part of a ranker's time before its
calls, what runs beside event loops) is chosen so that the simulator gives the latencies that were measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, nnls

from exfm.artifact.plan import ShardPlan
from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.cost_model.work import ShardWork, work_by_net
from exfm.planning.simulation.simulator import Requests
from exfm.planning.statistics import Statistics
from exfm_bench.measurement import NUM_WARMUP, Measured
from exfm_bench.shared_cores import ReplayedRequests, SharedCores, replay_requests
from exfm_bench.workload import GENERATED

Floats = npt.NDArray[np.float64]

PRIOR_WEIGHT = 0.03
SLOPE_WEIGHT = 0.1
"""Weight of the earlier prices, relative to one measured point. They decide only what the points do not. The prices of
lookups, bags, keys and bytes weigh more (SLOPE_WEIGHT), because each was measured by itself."""

PRICES = ("call_us", "net_us", "lookup_us", "bag_ns", "key_ns", "byte_ns")
"""Prices of one end of a call, in the order of `_shard_amounts`."""

PAUSE_S = 1.0
"""Pause between two rounds in a replay."""


@dataclass(frozen=True)
class Predicted:
    """What the simulator predicts for a measured point."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    ranker_cpu_ms: float
    shard_cpu_ms: Floats
    client_cpu_ms: float

    @property
    def cpu_ms(self) -> float:
        """Return the CPU time of a mean request, at ranker and shards."""
        return self.ranker_cpu_ms + float(self.shard_cpu_ms.sum())


@dataclass(frozen=True)
class ClientCosts:
    """CPU time of the load's client, which takes part of shared cores."""

    request_us: float
    candidate_us: float
    cold_us: float
    """Extra time of a request after a long pause."""


@dataclass(frozen=True)
class Calibration:
    """The costs that fit the measured points."""

    costs: CostModel
    client: ClientCosts
    beside_share: float = 0.155
    """Share of a server's CPU time in threads beside its event loop."""

    def shared_cores(self, num_cores: int, *, candidates: int) -> SharedCores:
        """Return the machine's cores, shared by a client whose requests have so many candidates."""
        client_us = self.client.request_us + candidates * self.client.candidate_us
        return SharedCores(num_cores, client_us * 1e-6, self.client.cold_us * 1e-6, self.beside_share)

    def predict(self, measured: Measured, *, cores: int) -> Predicted:
        """Return what the simulator says of a point's requests, whose servers and client share the machine's cores."""
        arrivals_s, counts = _one_after_the_other(measured)
        point = measured.point
        replayed = replay_requests(
            Requests(arrivals_s, np.full(len(arrivals_s), float(point.candidates))),
            point.plan,
            GENERATED.statistics(candidates=point.candidates),
            self.costs,
            self.shared_cores(cores, candidates=point.candidates),
            seed=0,
        )
        return _predicted(replayed, counts)


def _one_after_the_other(measured: Measured) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return all rounds' arrivals in one row, and which of them count."""
    arrivals_s, start_s = [], 0.0
    for one in measured.rounds:
        arrivals_s.append(one.arrivals_s + start_s)
        start_s = arrivals_s[-1][-1] + PAUSE_S
    counts = [np.arange(len(one.arrivals_s)) >= NUM_WARMUP for one in measured.rounds]
    return np.concatenate(arrivals_s), np.concatenate(counts)


def _predicted(replayed: ReplayedRequests, counts: npt.NDArray[np.bool_]) -> Predicted:
    p50_ms, p90_ms, p99_ms = (float(value) for value in np.quantile(replayed.latency_ms[counts], [0.5, 0.9, 0.99]))
    return Predicted(p50_ms, p90_ms, p99_ms, replayed.ranker_cpu_ms, replayed.shard_cpu_ms, replayed.client_cpu_ms)


def calibrate(
    points: Sequence[Measured], *, prior: CostModel, cores: int, measured: str, num_trials: int = 150
) -> Calibration:
    """Return the cost model and client that fit these points best; `measured` says when and on what they were.

    `num_trials` is how many times the points are simulated to find what is not linear.
    """
    named = prior.model_copy(update={"measured": measured})
    by_cooling = [_fit_prices(named.model_copy(update={"cooling_ms": ms}), points) for ms in COOLING_MS]
    priced, _ = min(by_cooling, key=lambda fitted: fitted[1])

    def error(parameters: Floats) -> float:
        tried = _with_parameters(priced, parameters)
        return float(np.mean([_squared_error(tried.predict(point, cores=cores), point) for point in points]))

    start = _parameters(priced)
    found = minimize(error, start, method="Nelder-Mead", options={"maxfev": num_trials, "xatol": 0.01, "fatol": 1e-5})
    return _with_parameters(priced, found.x)


COOLING_MS = (2.0, 4.0, 6.0, 8.0, 10.0, 13.0, 17.0, 22.0, 30.0, 50.0)
"""Values that are tried for `cooling_ms`."""

POSITIVE = ("network_latency_us", "spread")
"""Parameters that a search by simulation fits by their logarithm; it fits the two shares by their logit."""


def _parameters(calibration: Calibration) -> Floats:
    positive = np.array([getattr(calibration.costs, name) for name in POSITIVE])
    shares = np.array([calibration.costs.ranker_before_share, calibration.beside_share])
    return np.concatenate([np.log(positive), np.log(shares / (1 - shares))])


def _with_parameters(calibration: Calibration, parameters: Floats) -> Calibration:
    positive = np.exp(parameters[: len(POSITIVE)]).tolist()
    before_share, beside_share = (1 / (1 + np.exp(-parameters[len(POSITIVE) :]))).tolist()
    update = dict(zip(POSITIVE, positive, strict=True)) | {"ranker_before_share": before_share}
    return replace(calibration, costs=calibration.costs.model_copy(update=update), beside_share=beside_share)


def _squared_error(predicted: Predicted, measured: Measured) -> float:
    pairs = (
        (predicted.p50_ms, measured.quantile_ms(0.5)),
        (predicted.p90_ms, measured.quantile_ms(0.9)),
        (predicted.p99_ms, measured.quantile_ms(0.99)),
    )
    return float(np.mean([np.log(predicted / found) ** 2 for predicted, found in pairs]))


def _fit_prices(prior: CostModel, points: Sequence[Measured]) -> tuple[Calibration, float]:
    """Return prices that give the measured CPU times if servers cool as in `prior`, and their mean squared error."""
    shard_rows, ranker_rows, client_rows = [], [], []
    for measured in points:
        coldness, candidates = _coldness(measured, prior.cooling_ms * 1e-3), measured.point.candidates
        work = work_of(measured.point.plan, GENERATED.statistics(candidates=candidates))
        amounts_SA = _shard_amounts(work)
        shard_rows.append(np.column_stack([amounts_SA, work.request_share * coldness]))
        ranker_rows.append([1.0, candidates, *amounts_SA[:, :-1].sum(axis=0), coldness])
        client_rows.append([1.0, candidates, coldness])
    of_rankers = [prior.ranker_request_us, prior.ranker_candidate_us, *_prices(prior.ranker), prior.ranker_cold_us]
    of_shards = [*_prices(prior.shard), prior.read_byte_ns, prior.shard_cold_us]
    fits = (
        _fit(np.array(ranker_rows), [one.ranker_cpu_ms for one in points], of_rankers, slopes=slice(4, 8)),
        _fit(
            np.concatenate(shard_rows),
            np.concatenate([one.shard_cpu_ms for one in points]),
            of_shards,
            slopes=slice(2, 7),
        ),
        _fit(np.array(client_rows), [one.client_cpu_ms for one in points], [300.0, 0.5, 200.0]),
    )
    (ranker, _), (shard, _), (client, _) = fits
    costs = prior.model_copy(
        update={
            "ranker_request_us": ranker[0],
            "ranker_candidate_us": ranker[1],
            "ranker": _call_prices(ranker[2:-1]),
            "ranker_cold_us": ranker[-1],
            "shard": _call_prices(shard[:-2]),
            "read_byte_ns": shard[-2],
            "shard_cold_us": shard[-1],
        }
    )
    return Calibration(costs, ClientCosts(*client)), sum(error for _, error in fits)


def work_of(plan: ShardPlan, statistics: Statistics) -> ShardWork:
    """Return the work of each shard of a plan in a mean request.

    Raises: PlanError, as `work_by_net`.
    """
    user, item = work_by_net(plan, statistics).values()
    total = {name: getattr(user, name) + getattr(item, name) for name in ShardWork.__dataclass_fields__}
    return ShardWork(**total | {"request_share": np.maximum(user.request_share, item.request_share)})


def _coldness(measured: Measured, cooling_s: float) -> float:
    """Return how cold servers were in the mean, from the gaps between requests, because each goes to all servers."""
    gaps_s = np.concatenate([np.diff(one.arrivals_s)[NUM_WARMUP - 1 :] for one in measured.rounds])
    return float(np.mean(1 - np.exp(-gaps_s / cooling_s)))


def _fit(
    amounts: Floats, found_ms: Sequence[float] | Floats, prior: Sequence[float], *, slopes: slice = slice(0)
) -> tuple[list[float], float]:
    """Return the prices, none below 0, with the least squared relative errors, and these in the mean."""
    weights = np.full(len(prior), PRIOR_WEIGHT)
    weights[slopes] = SLOPE_WEIGHT
    weights /= np.maximum(prior, 1e-6)
    relative = amounts * 1e-3 / np.asarray(found_ms)[:, None]
    rows = np.concatenate([relative, np.diag(weights)])
    prices: Floats = nnls(rows, np.concatenate([np.ones(len(relative)), prior * weights]))[0]
    return prices.tolist(), float(np.mean((relative @ prices - 1) ** 2))


def _shard_amounts(work: ShardWork) -> Floats:
    """Return what a shard's prices are for, so that the products are microseconds; a row a shard."""
    thousands = (work.bags, work.keys, work.request_bytes + work.answer_bytes, work.read_bytes)
    return np.stack([work.request_share, work.nets, work.lookups, *(amount * 1e-3 for amount in thousands)], axis=1)


def _prices(prices: CallPrices) -> tuple[float, ...]:
    return tuple(getattr(prices, name) for name in PRICES)


def _call_prices(prices: Sequence[float]) -> CallPrices:
    return CallPrices(**dict(zip(PRICES, prices, strict=True)))
