"""One of the processes that train a foundation model together: `python -m exfm_components.rank JSON`, by torchrun.

The leader does what a step's own process does, and prints the same lines. The others do what the leader does.
"""

import json
import os
import sys
import time
import traceback
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from exfm.das.advance import teach
from exfm.environment import end_with_parent
from exfm.errors import ExfmError
from exfm.foundation.config import FoundationConfig
from exfm.foundation.line import foundation_line
from exfm.models.ranks import joined
from exfm.training.crew import Crew
from exfm_components.data_augmentation import das_of, work
from exfm_components.progress import running
from exfm_components.run_config import RunConfig

GRACE_S = 5.0
"""Before another rank than the leader fails: torchrun ends all at the first failure, and the leader's says why."""


def train(run: dict[str, Any], root: str, foundation_model: dict[str, Any]) -> int:
    """Do what is due for a foundation model together with the other ranks, and return the exit code.

    Raises: RuntimeError if another rank is lost.
    """
    foundation = FoundationConfig.parse(foundation_model, source="foundation_model")
    config = RunConfig.parse(run | {"root": root}, source="run")
    is_leader = os.environ["RANK"] == "0"
    try:
        if is_leader:
            _lead(config, foundation)
        else:
            with joined(gpu=foundation.training.gpu) as ranks:
                Crew(ranks).follow()
    except ExfmError as error:
        if not is_leader:  # the leader's line is printed
            print(f"rank {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)
            time.sleep(GRACE_S)
        return error.exit_code
    except RuntimeError:
        if not is_leader:
            traceback.print_exc()
            time.sleep(GRACE_S)
        raise
    return 0


def _lead(config: RunConfig, foundation: FoundationConfig) -> None:
    with running(f"train-fm {foundation.name}") as stage, joined(gpu=foundation.training.gpu) as ranks:
        crew = Crew(ranks)
        line = foundation_line(foundation, config.feature_schema)
        work(teach(das_of(config), foundation.name, line, crew=crew), stage.report)
        crew.end()


@record  # so that torchrun knows the reason
def main() -> None:
    """Train as one of several ranks, by the arguments of `train` as a JSON object."""
    end_with_parent()
    [arguments] = sys.argv[1:]
    sys.exit(train(**json.loads(arguments)))


if __name__ == "__main__":
    main()
