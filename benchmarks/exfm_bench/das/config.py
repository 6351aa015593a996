"""What `exfm bench das` measures: how many windows of how many rows, how often, and with which foundation model."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from exfm.config import Config
from exfm.models.config import ModelConfig

Rows = Annotated[int, Field(ge=100, le=10_000_000)]
Windows = Annotated[int, Field(ge=1, le=10_000)]


class DasBenchConfig(Config):
    """All that is measured."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the log, the model's parameters and the order of turns."""
    turns: Annotated[int, Field(ge=1, le=1_000)] = 6
    """Times that each ratio is measured; 1 to 1,000. Fewer than six give no 95 % interval."""
    join_rows: Rows = 100_000
    """Impressions of a window that is joined or scored; 100 to 10,000,000."""
    join_windows: Windows = 4
    """Windows that a turn labels and joins; 1 to 10,000."""
    rows: Rows = 10_000
    """Impressions of a window of a log that grows; 100 to 10,000,000."""
    few: Windows = 10
    many: Windows = 100
    """Windows of a short and of a long log, whose peaks of memory are compared; 1 to 10,000."""
    model: ModelConfig = ModelConfig()
    """The foundation model that scores, with random parameters; it has 4 dense and 8 sparse features."""
    duckdb: str = ""
    """Folder of a virtual environment with duckdb. Empty: DuckDB is left out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.few >= self.many:
            raise ValueError(f"few is {self.few} and many is {self.many} windows; set many above few")
        return self

    def with_duckdb(self, folder: str) -> Self:
        """Return these settings with another environment of DuckDB; an empty one replaces none."""
        return self.model_copy(update={"duckdb": folder}) if folder else self
