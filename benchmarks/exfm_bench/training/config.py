"""What `exfm bench train` measures: which model and data, how often, and beside which other trainers."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from exfm.config import Config
from exfm.models.config import NetworkConfig

Dim = Annotated[int, Field(ge=4, le=1024, multiple_of=4)]


class Peers(Config):
    """Virtual environments of the user's with other trainers, each apart from exfm's."""

    fuxictr: str = ""
    """Folder of a virtual environment with fuxictr and torch. Empty: FuxiCTR is left out."""
    torchrec: str = ""
    """Folder of a virtual environment with torchrec, fbgemm-gpu-cpu and torch. Empty: torchrec is left out."""


class TrainBenchConfig(Config):
    """All that is measured."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of examples, initial parameters and the order of turns."""
    num_tables: Annotated[int, Field(ge=2, le=1_000)] = 26
    """Embedding tables, each with a feature of one id an example; 2 to 1,000."""
    rows: Annotated[int, Field(ge=16, le=2**31)] = 100_000
    """Rows of each table, looked up by uniform ids; 16 to 2**31."""
    dims: Annotated[tuple[Dim, ...], Field(min_length=1)] = (16, 64)
    """Numbers a row; multiples of 4, 4 to 1,024. All is measured with one after another."""
    network: NetworkConfig = NetworkConfig(bottom_units=(), top_units=(128, 64))
    """Dense layers of DCNv2, the same in all trainers. There is no dense feature, so there are no bottom units."""
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 4096
    """Examples of a step; 1 to 1,048,576."""
    batches: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Steps of a window; 1 to 10,000."""
    windows: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Windows, all of which a turn of a trainer learns once; 1 to 1,000."""
    turns: Annotated[int, Field(ge=6, le=1_000)] = 7
    """Times that each trainer is measured, in turn; 6 to 1,000. Fewer than six give no 95 % interval."""
    choosing_turns: Annotated[int, Field(ge=1, le=100)] = 1
    """Turns with each of a trainer's settings (threads, processes that read) to find its fastest; 1 to 100."""
    growth: Annotated[int, Field(ge=2, le=1_000)] = 3
    """How many times as many examples exfm learns at the end, to see whether time grows alike and memory does not; 2 to
    1,000."""
    peers: Peers = Peers()

    @model_validator(mode="after")
    def _check(self) -> Self:
        network = self.network
        if network.interaction != "dcnv2" or not network.top_units:
            raise ValueError(
                f"network has interaction {network.interaction} and {len(network.top_units)} top layers, but all "
                "trainers learn DCNv2 with top layers; set interaction dcnv2, and top_units"
            )
        return self

    @property
    def num_examples(self) -> int:
        """Return the examples of a turn."""
        return self.windows * self.batches * self.batch_size

    def with_peers(self, *, fuxictr: str, torchrec: str) -> Self:
        """Return these settings with other environments of peers; an empty one replaces none."""
        named = {name: folder for name, folder in (("fuxictr", fuxictr), ("torchrec", torchrec)) if folder}
        return self.model_copy(update={"peers": self.peers.model_copy(update=named)})
