"""A model that goes on: its states, window after window, of which each is the next one's parent.

Other features, sizes or training settings make another line, from the oldest window on. What learns and scores by it is
in exfm.training.line_trainer, so that stages without models load no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from exfm.artifact.digests import digest_of_json
from exfm.artifact.stores import join
from exfm.config import Config
from exfm.models.config import ModelConfig
from exfm.schema import Schema
from exfm.training.config import TrainingConfig

if TYPE_CHECKING:
    from exfm.models.ranking import RankingModel
    from exfm.training.learner import Learner


@dataclass(frozen=True)
class Line:
    """A model by its settings."""

    kind: Literal["foundation", "vertical"]
    name: str
    schema: Schema
    """The part of the log's schema that it uses."""
    model: ModelConfig
    training: TrainingConfig
    make: "Callable[[RankingModel], Learner]"
    """Returns what learns by it."""
    domains: tuple[str, ...] = ()
    """Whose examples it learns from; empty: all."""
    teachers: tuple[str, ...] = ()
    """Foundation models whose pseudo-labels it reads."""
    others: tuple[Config, ...] = ()
    """Other settings that make it what it is."""

    @cached_property
    def digest(self) -> str:
        """Return what tells it from lines of the same name with other settings; 12 hexadecimal digits."""
        settings = [one.to_dict() for one in (self.schema, self.model, self.training, *self.others)]
        return digest_of_json({"settings": settings, "domains": self.domains, "teachers": self.teachers})[:12]

    @property
    def part(self) -> str:
        """Return its part of the windows of tables that models share."""
        return f"{self.name}-{self.digest}"

    def folder(self, root: str, window: int) -> str:
        """Return where the state after a window lies, below a run's root."""
        return join(root, "models", self.name, self.digest, str(window))

    def version(self, window: int) -> str:
        """Return the name of the state after a window."""
        return f"{self.part}-{window}"
