"""The smoke test: a bundle's shards and ranker are started, answer its golden query once, and are stopped."""

import time
from typing import Any

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest
from exfm.artifact.manifest import read_json
from exfm.artifact.storage import Ref, reading
from exfm.config import Config
from exfm.serving.local.serving import serve_local


class SmokeTest(Config):
    """A request to a served bundle, and the answer."""

    model_name: str
    bundle_id: str
    num_shards: int
    max_abs_difference: float
    """Largest difference of a served score from the bundle's own at export; a probability."""
    latency_ms: float
    """Latency of one REST request after the warm-up, in milliseconds."""
    request: dict[str, Any]
    answer: dict[str, Any]
    """Request and answer are in the protocol's JSON form."""

    def headline(self) -> str:
        """Return one line about the answer."""
        num_items = len(self.answer["outputs"][0]["data"])
        return (
            f"{self.model_name} on {self.num_shards} shards and a ranker: {num_items} items in "
            f"{self.latency_ms:.1f} ms, scores within {self.max_abs_difference:.1e} of the bundle's"
        )


def run_smoke_test(bundle: Ref) -> SmokeTest:
    """Serve a bundle on loopback, send its golden query, and return the answer.

    Raises: BundleError if the bundle is damaged; ServingError if a server does not start, or scores otherwise
    than the model did.
    """
    with reading(bundle) as folder:
        manifest = BundleManifest.read(folder, verify=False)  # reading() has
        request, golden = read_json(folder / GOLDEN_REQUEST), read_json(folder / GOLDEN_RESPONSE)
        with serve_local(folder) as serving:
            started = time.perf_counter()
            answer = serving.infer(request)
            latency_ms = (time.perf_counter() - started) * 1000
    scores, expected = ([score for output in one["outputs"] for score in output["data"]] for one in (answer, golden))
    return SmokeTest(
        model_name=manifest.name,
        bundle_id=manifest.bundle_id,
        num_shards=manifest.plan.num_shards,
        max_abs_difference=max(abs(score - own) for score, own in zip(scores, expected, strict=True)),
        latency_ms=latency_ms,
        request=request,
        answer=answer,
    )
