"""Models like DRM1 to DRM3, made so small that this machine can serve them."""

from collections.abc import Callable
from typing import Literal

from exfm.artifact.plan import row_bytes
from exfm.models.config import NetworkConfig
from exfm_bench.large_models import Workload, drm1_like, drm2_like, drm3_like
from exfm_bench.workload import SMALL_NETWORK, GeneratedFeature, GeneratedModel

ModelKind = Literal["drm1", "drm2", "drm3"]

NetworkKind = Literal["mlperf", "small"]

LARGE: dict[ModelKind, Callable[[int], Workload]] = {"drm1": drm1_like, "drm2": drm2_like, "drm3": drm3_like}

NETWORKS: dict[NetworkKind, NetworkConfig] = {
    "mlperf": NetworkConfig(
        bottom_units=(512, 256, 128), num_cross_layers=3, cross_rank=512, top_units=(1024, 1024, 512, 256)
    ),
    "small": SMALL_NETWORK,
}
"""`mlperf` has the sizes of DLRM-DCNv2, MLPerf's recommendation model, in its reference code (torchrec_dlrm)."""

MIN_ROWS = 16


def scaled(
    kind: ModelKind, *, bytes_factor: float, dim_factor: float, network: NetworkKind, seed: int
) -> GeneratedModel:
    """Return a model whose tables take `bytes_factor` of the large one's bytes, in rows `dim_factor` as wide.

    A model of one net is all items': where it is all users', no candidate would cost a shard anything. Items have one
    id a table, as those of the large models do.
    """
    tables = LARGE[kind](seed).statistics.tables
    of_one_net = len({table.net for table in tables}) == 1
    features = []
    for table in tables:
        dim = max(4, int(table.dim * dim_factor) // 4 * 4)
        is_user = table.net == "user" and not of_one_net
        features.append(
            GeneratedFeature(
                name=table.name,
                net="user" if is_user else "item",
                rows=max(MIN_ROWS, int(table.size_bytes("fp32") * bytes_factor) // row_bytes(dim, "fp32")),
                dim=dim,
                pooling_mean=table.pooling_mean if is_user else 1.0,
            )
        )
    return GeneratedModel(tuple(features), NETWORKS[network])


def of_rows(rows: int, *, num_tables: int, dim: int) -> GeneratedModel:
    """Return a model whose tables, all items', have so many rows each; its requests are the same for any number."""
    features = (GeneratedFeature(f"t{index}", "item", rows, dim, 1.0) for index in range(num_tables))
    return GeneratedModel(tuple(features), SMALL_NETWORK)
