"""Settings of a comparison."""

from collections import Counter
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from exfm.config import Config
from exfm.distill import config as distill

LABEL: Final = "label"
"""The method that all others are compared with."""

KD: Final = "kd"
"""The method that auxiliary heads and adapters are to improve on."""

SELF: Final = "self"
"""The control: `kd` from a teacher of the vertical model's own size, which learned from labels only."""

Method = Literal[distill.Method, "self"]


class Setting(Config):
    """What is tuned of a method."""

    weight: float
    """Of the pseudo-labels' loss; 0 with `label`."""
    learning_rate: float
    """Of Adam on the dense network."""


class ComparisonConfig(Config):
    """What `exfm distill compare` does with a finished run's examples."""

    vertical_models: tuple[str, ...] = ()
    """Names of the run's vertical models that are compared; empty: all."""
    methods: Annotated[tuple[Method, ...], Field(min_length=2)] = (
        LABEL, "kd", "ah", "sa", "ah+sa", "auto", SELF,
    )  # fmt: skip
    """Methods, each once; `label` is one of them. `self` is the control: `kd` from a label-only teacher of the vertical
    model's own size, with another seed."""
    num_seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """Models of each method, from that many initial parameters: the vertical model's `seed` and those after it; 1 to
    100. With 1 the intervals do not have the spread of seeds."""
    tuning_windows: Annotated[int, Field(ge=1)] = 8
    """First windows, by which each method's weight and learning rate are chosen, and which no figure counts; more than
    the vertical models' `training.warmup_windows`."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], Field(min_length=1)] = (0.3, 1.0, 3.0)
    """Weights of the pseudo-labels' loss that are tried with every method but `label`; more than 0, at most 100."""
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.001, 0.003)
    """Learning rates of Adam on the dense network that are tried with every method; more than 0, at most 1."""
    num_bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Samples that each interval is made of; 100 to 100,000."""
    bootstrap_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of these samples."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("vertical_models", "methods", "weights", "learning_rates"):
            twice = [str(value) for value, count in Counter(getattr(self, key)).items() if count > 1]
            if twice:
                raise ValueError(f"{key}: {', '.join(twice)} is there more than once; leave one of them")
        if LABEL not in self.methods:
            raise ValueError(f"methods: {LABEL} is missing, which the others are compared with; add it")
        return self
