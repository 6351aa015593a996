"""One of the processes that train a foundation model together: `python -m exfm_components.rank JSON`, by torchrun.

The leader does what a step's own process does, and prints the same lines. The others do what the leader does.
"""

import json
import sys
import time
from typing import Any

from exfm.das.advance import teach
from exfm.errors import ExfmError
from exfm.foundation.config import FoundationConfig
from exfm.foundation.line import foundation_line
from exfm.models.ranks import Ranks, joined
from exfm.training.crew import Crew
from exfm_components.data_augmentation import das_of, work
from exfm_components.progress import running
from exfm_components.run_config import RunConfig

GRACE_S = 5.0
"""Before another rank than the leader fails: torchrun ends all at the first failure, and the leader's says why."""


def train(run: dict[str, Any], root: str, foundation_model: dict[str, Any]) -> int:
    """Do what is due for a foundation model together with the other ranks, and return the exit code.

    Raises: RuntimeError in the leader if another rank is lost.
    """
    foundation = FoundationConfig.parse(foundation_model, source="foundation_model")
    config = RunConfig.parse(run | {"root": root}, source="run")
    with joined(gpu=foundation.training.gpu) as ranks:
        return _lead(config, foundation, ranks) if ranks.leads else _follow(ranks)


def _lead(config: RunConfig, foundation: FoundationConfig, ranks: Ranks) -> int:
    das, crew = das_of(config), Crew(ranks)
    try:
        with running(f"train-fm {foundation.name}") as stage:
            line = foundation_line(foundation, config.feature_schema)
            work(teach(das, foundation.name, line, crew=crew), stage.report)
    except ExfmError as error:  # the line is printed
        return error.exit_code
    crew.end()
    return 0


def _follow(ranks: Ranks) -> int:
    try:
        Crew(ranks).follow()
    except (ExfmError, RuntimeError) as error:  # the leader's own, or of the lost leader
        print(f"rank {ranks.rank}: {error}", file=sys.stderr, flush=True)
        time.sleep(GRACE_S)
        return 1
    return 0


def main() -> None:
    """Train as one of several ranks, by the arguments of `train` as a JSON object."""
    [arguments] = sys.argv[1:]
    sys.exit(train(**json.loads(arguments)))


if __name__ == "__main__":
    main()
