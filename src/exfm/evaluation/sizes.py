"""Models of other sizes than those of a run."""

from exfm.models.config import ModelConfig


def sized(model: ModelConfig, size: float, *, source: str) -> ModelConfig:
    """Return a model with that many times the tables' dims and the layers' units, each unit count at least 1.

    Raises: ConfigError, which begins with `source`, if that is no whole multiple of the schema's dims, or too large.
    """
    network = model.network.to_dict()
    for key in ("bottom_units", "top_units"):
        network[key] = [_times(units, size) for units in network[key]]
    if "cross_rank" in network:
        network["cross_rank"] = _times(network["cross_rank"], size)
    written = model.to_dict() | {"network": network, "dim_factor": model.dim_factor * size}
    return ModelConfig.parse(written, source=f"{source}: size {size:g} of a model with dim_factor {model.dim_factor}")


def _times(units: int, size: float) -> int:
    return max(round(size * units), 1)
