"""Several processes of this machine that train a foundation model together."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial

from exfm.environment import end_with_parent
from exfm.errors import ConfigError, StageError
from exfm.foundation.config import FoundationConfig
from exfm_components.processes import LAUNCHER, RANK, arguments_of
from exfm_components.progress import Progress, parse
from exfm_components.run_config import RunConfig

Report = Callable[[str], None]


def train_here(config: RunConfig, foundation: FoundationConfig, *, report: Report) -> None:
    """Do what is due for a foundation model by its processes, and report what they do.

    Raises: ConfigError if it wants several nodes; StageError, with what the leader said, if they fail.
    """
    training = foundation.training
    if training.nodes > 1:
        raise ConfigError(
            f"foundation model {foundation.name!r}: training.nodes is {training.nodes}, but this run is on one "
            "machine; set it to 1 and processes_per_node to more, or run the pipeline on Kubeflow"
        )
    options = ["--standalone", f"--nproc-per-node={training.processes_per_node}"]
    command = [sys.executable, *LAUNCHER, *options, *RANK, arguments_of(config, foundation)]
    environment = os.environ | {"OMP_NUM_THREADS": str(training.torch_threads)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=partial(end_with_parent, os.getpid()),
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        try:
            failed = _relay(process.stdout, report)
        finally:
            process.terminate()  # torchrun ends its processes; one that has ended takes no notice
    if failed is not None:
        raise failed.error
    if process.returncode:
        raise StageError(
            f"training by {training.num_processes} processes ended with exit code {process.returncode}; see the lines "
            "before; the next run goes on from the last finished window"
        )


def _relay(lines: Iterable[str], report: Report) -> Progress | None:
    """Report what the leader's lines say, print other lines, and return its failure if it failed."""
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
