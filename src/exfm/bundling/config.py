"""Settings of a bundle: how a vertical model's tables are planned, counted and checked."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from exfm.artifact.stores import resolve_path
from exfm.config import Config
from exfm.planning.config import ShardingConfig

PLACES = ("plan", "previous_plan", "table_statistics", "costs")
"""The settings that are paths or URLs."""

MODEL = "{model}"


class BundleConfig(Config):
    """Settings of a vertical model's bundle. In a path or URL, {model} stands for the model's name."""

    sharding: ShardingConfig = ShardingConfig()
    plan: str = ""
    """JSON file or URL of a plan of `exfm shard plan`, which is used as it is. Empty: a plan is made by `sharding`."""
    previous_plan: str = ""
    """Plan, or folder or URL of a bundle, from which the plan made by `sharding` should move few bytes. Empty: the plan
    is made anew."""
    table_statistics: str = ""
    """Folder or URL of what `exfm shard statistics` counted. Empty: the model's own examples are counted, as requests
    of `candidates_mean` items."""
    costs: str = ""
    """YAML file or URL of costs that `exfm bench simulator` measured. Empty: those of exfm's own servers."""
    candidates_mean: Annotated[float, Field(ge=1, le=1_000_000)] = 100.0
    """Mean number of items of a request, which examples do not show; 1 to 1,000,000."""
    golden_candidates: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Items of the request that a ranker must score as the bundle did when it was made, before it is ready; 1 to
    10,000."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.plan and self.previous_plan:
            raise ValueError(
                f"plan {self.plan} is used as it is, so previous_plan {self.previous_plan} has no effect; leave out one"
            )
        return self

    def of_model(self, name: str) -> Self:
        """Return the settings of one model, with its name in their paths."""
        return self.model_copy(update={place: getattr(self, place).replace(MODEL, name) for place in PLACES})

    def places(self) -> dict[str, str]:
        """Return the paths and URLs of these settings by key; an empty one is not set."""
        return {f"bundle.{place}": getattr(self, place) for place in PLACES}

    def resolved(self, base: Path) -> Self:
        """Return the settings with local paths made absolute; relative ones start at `base`."""
        named = {place: getattr(self, place) for place in PLACES}
        return self.model_copy(update={place: resolve_path(uri, base=base) for place, uri in named.items() if uri})
