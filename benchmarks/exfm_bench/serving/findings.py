"""All that one run found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exfm_bench.serving.config import ServingBenchConfig
from exfm_bench.serving.measuring import Measured
from exfm_bench.serving.memory import Grown
from exfm_bench.serving.peers import PeersFound
from exfm_bench.serving.sweep import SweepFound


@dataclass(frozen=True)
class Findings:
    """Where and how it was measured, and what came out."""

    facts: Mapping[str, str]
    """Facts of the machine and its software."""
    config: ServingBenchConfig
    scenarios: tuple[Measured, ...]
    sweep: SweepFound | None
    peers: PeersFound | None
    memory: tuple[Grown, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the raw numbers of all blocks, as JSON can hold them."""
        return {
            "facts": dict(self.facts),
            "config": self.config.to_dict(),
            "scenarios": [_scenario(one) for one in self.scenarios],
            "sweep": _sweep(self.sweep) if self.sweep else None,
            "peers": _peers(self.peers) if self.peers else None,
            "memory": [one.to_dict() for one in self.memory],
        }


def _scenario(measured: Measured) -> dict[str, Any]:
    return {
        "scenario": measured.scenario.to_dict(),
        "load": measured.load,
        "requests_per_s": measured.requests_per_s,
        "threads": measured.threads,
        "table_bytes": measured.table_bytes,
        "unsharded": measured.unsharded.to_dict(),
        "same": measured.same.to_dict(),
        "sharded": [{"variant": variant.to_dict(), **series.to_dict()} for variant, series in measured.sharded],
        "score_differences": list(measured.score_differences),
        "score_spread": measured.score_spread,
        "layers": [asdict(one) for one in measured.layers],
    }


def _sweep(found: SweepFound) -> dict[str, Any]:
    return {
        "threads": found.threads,
        "sizes": [
            {
                "rows": one.rows,
                "table_bytes": one.table_bytes,
                "unsharded": one.unsharded.to_dict(),
                "sharded": one.sharded.to_dict(),
            }
            for one in found.sizes
        ],
        "same": found.same.to_dict(),
    }


def _peers(found: PeersFound) -> dict[str, Any]:
    return {
        "model": found.model,
        "candidates": found.candidates,
        "threads": found.threads,
        "unsharded": found.unsharded.to_dict(),
        "same": found.same.to_dict(),
        "sharded": found.sharded.to_dict(),
        "peers": [
            {"peer": peer.name, "version": peer.version, "tuned": peer.tuned, **series.to_dict()}
            for peer, series in found.peers
        ],
        "missing": list(found.missing),
        "layers": [asdict(one) for one in found.layers],
        "score_differences": list(found.score_differences),
        "fp32_bytes": found.fp32_bytes,
        "int8_bytes": found.int8_bytes,
    }
