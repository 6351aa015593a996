"""All that a page is made of, read from the parts' files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exfm.artifact.manifest import read_json
from exfm.evaluation.comparison import Comparison
from exfm_bench.results import parts
from exfm_bench.results.conditions import Conditions
from exfm_bench.results.lines import ModelLines
from exfm_bench.results.parts import COMPARISON, CONDITIONS, DEFAULTS, LINES, WORLD
from exfm_bench.results.served import Served

SERVED = "served.json"

MOVIELENS, OPEN_BANDIT, NEW_VERTICAL = "MovieLens-100K", "Open Bandit sample", "new vertical"
"""Names of data, for people."""


@dataclass(frozen=True)
class PartFound:
    """What one part found."""

    conditions: Conditions
    lines: Sequence[ModelLines]
    comparison: Comparison
    """Of all methods, tuned alike where several settings are tried."""


@dataclass(frozen=True)
class WorldFound(PartFound):
    """What was found in one synthetic world."""

    defaults: Comparison
    """Of the defaults, with good and bad teachers."""


@dataclass(frozen=True)
class Found:
    """What all parts found."""

    movielens: PartFound
    open_bandit: PartFound
    new_vertical: PartFound
    worlds: Sequence[WorldFound]
    served: Sequence[Served]
    """The foundation model on MovieLens, then its vertical models."""

    @property
    def tuned(self) -> list[Comparison]:
        """Return each world's comparison of methods that were tuned alike."""
        return [world.comparison for world in self.worlds]

    @property
    def defaults(self) -> list[Comparison]:
        """Return each world's comparison of the defaults."""
        return [world.defaults for world in self.worlds]

    def parts(self) -> Mapping[str, PartFound]:
        """Return the parts that have one comparison, by the name of their data."""
        return {
            MOVIELENS: self.movielens,
            OPEN_BANDIT: self.open_bandit,
            NEW_VERTICAL: self.new_vertical,
        }


def read_found(out: Path, *, num_worlds: int) -> Found:
    """Return what the parts below a folder found.

    Raises: StorageError or ConfigError if a file is missing, or is something else.
    """
    served = out / SERVED
    return Found(
        movielens=PartFound(*_read(out / parts.MOVIELENS)),
        open_bandit=PartFound(*_read(out / parts.OPEN_BANDIT)),
        new_vertical=PartFound(*_read(out / parts.NEW_VERTICAL)),
        worlds=[
            WorldFound(*_read(world), Comparison.read(str(world / DEFAULTS)))
            for world in (out / f"{WORLD}-{seed}" for seed in range(1, num_worlds + 1))
        ],
        served=[Served.parse(one, source=str(served)) for one in read_json(served)],
    )


def _read(part: Path) -> tuple[Conditions, list[ModelLines], Comparison]:
    conditions, lines = part / CONDITIONS, part / LINES
    return (
        Conditions.parse(read_json(conditions), source=str(conditions)),
        [ModelLines.parse(one, source=str(lines)) for one in read_json(lines)],
        Comparison.read(str(part / COMPARISON)),
    )
