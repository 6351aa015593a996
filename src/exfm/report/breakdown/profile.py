"""`exfm profile`: send requests, then print, draw and write the breakdown of their time."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from exfm.artifact.bundle import GOLDEN_REQUEST, BundleManifest
from exfm.artifact.manifest import read_json, write_json
from exfm.errors import ConfigError, StorageError
from exfm.features.oip import tensors_from_json
from exfm.report.breakdown.layers import layer_times, middle_half
from exfm.report.breakdown.picture import draw_layers
from exfm.report.breakdown.table import layers_table
from exfm.serving.local.serving import serve_local
from exfm.serving.oip.grpc.client import traced_ranker

NUM_WARMUP = 50
"""Number of requests before those that count."""


def profile_requests(
    console: Console,
    bundle: Path,
    *,
    query: Path | None,
    address: str,
    num_requests: int,
    out: Path,
) -> None:
    """Send a bundle's ranker the same request many times, and report how much time each layer takes.

    Without `query` it is the bundle's golden query; without `address` the bundle is served here. The picture goes to
    `out`, the numbers to a JSON file beside it.

    Raises: BundleError; ConfigError if there is no request; RequestError; ServingError.
    """
    manifest = BundleManifest.read(bundle)
    tensors = tensors_from_json(_read_query(query or bundle / GOLDEN_REQUEST))
    serving = nullcontext() if address else serve_local(bundle)
    with serving as local:
        target = local.grpc_address if local is not None else address
        with traced_ranker(target, [tensors], model_name=manifest.name, model_version=manifest.bundle_id) as send:
            every = send(NUM_WARMUP + num_requests)
    traced = every[NUM_WARMUP - 1 :]  # one more: it has the CPU times before the first request that counts
    found, counted_R = layer_times(traced), middle_half(traced)
    console.print(layers_table(found, counted_R))
    where = f", at {address}" if address else ""
    title = f"{manifest.name}, {manifest.plan.num_shards} shards{where}: {num_requests:,} requests, one at a time"
    draw_layers(found, counted_R, title=title, out=out)
    numbers = out.with_suffix(".json")
    write_json(numbers, {"title": title, "bundle_id": manifest.bundle_id, "requests": [t.to_dict() for t in traced]})
    console.print(f"{title}; shares are of the middle half, by latency", soft_wrap=True)
    console.print(f"{out}: the picture; {numbers}: every request", soft_wrap=True)


def _read_query(path: Path) -> Any:
    try:
        return read_json(path)
    except StorageError as error:
        raise ConfigError(f"no request to profile ({error}); name one by --query") from error
