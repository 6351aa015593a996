"""All processes of one node that train a foundation model together: torchrun for exfm_components.rank.

`python -m exfm_components.launcher [OPTION...] JSON` takes torchrun's options; Kubeflow Trainer sets them by the environment (PET_NNODES and so on). The exit code is
the leader's, which torchrun does not pass on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser
from torch.distributed.run import run as run_elastic

from exfm.errors import StageError
from exfm.foundation.config import FoundationConfig
from exfm_components.progress import Progress, parse

RANK = "exfm_components.rank"


def command_of(
    run: dict[str, Any], root: str, foundation_model: dict[str, Any], *, options: Sequence[str]
) -> list[str]:
    """Return the command that starts a node's processes, with torchrun's options."""
    arguments = json.dumps({"run": run, "root": root, "foundation_model": foundation_model})
    return ["python", "-m", "exfm_components.launcher", *options, arguments]


def train_here(
    run: dict[str, Any], root: str, foundation_model: dict[str, Any], *, report: Callable[[str], None]
) -> None:
    """Train a foundation model by several processes of this machine, and report what they do.

    Raises: StageError, with what the leader said, if they fail.
    """
    training = FoundationConfig.parse(foundation_model, source="foundation_model").training
    options = ["--standalone", f"--nproc-per-node={training.processes_per_node}"]
    command = [sys.executable, *command_of(run, root, foundation_model, options=options)[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": str(training.torch_threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None, "it is a pipe"
        try:
            failed = relay(process.stdout, report)
        finally:
            process.terminate()  # torchrun ends its processes; one that has ended takes no notice
    if failed is not None:
        raise StageError(failed.text, exit_code=failed.exit_code)
    if process.returncode:
        raise StageError(
            f"training by {training.num_processes} processes ended with exit code {process.returncode}; see the lines "
            "before; the next run goes on from the last finished window"
        )


def relay(lines: Iterable[str], report: Callable[[str], None]) -> Progress | None:
    """Report what the lines of a leader say, print the others, and return its failure if it failed."""
    failed = None
    for line in lines:
        match parse(line):
            case None:
                print(line, end="", flush=True)
            case Progress(event="under way", text=text):
                report(text)
            case Progress(event="failed") as found:
                failed = found
    return failed


def main() -> None:
    """Start the node's processes, and end with the first failure's exit code."""
    *options, arguments = sys.argv[1:]
    try:
        run_elastic(get_args_parser().parse_args([*options, "-m", RANK, arguments]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        print(f"rank {failure.local_rank} of this node ended with exit code {failure.exitcode}", file=sys.stderr)
        sys.exit(max(failure.exitcode, 1))


if __name__ == "__main__":
    main()
