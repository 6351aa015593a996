"""`python -m exfm_pipelines.local_runner`: runs a pipeline by KFP's own local runner, each step a child process.

The run's settings and `until` come by stdin as JSON; all that steps print goes to stdout. A loop's steps are started
by threads. KFP always waits for these threads, so a run is ended from outside, by SIGKILL to this process's group.
"""

import io
import json
import sys
import tempfile

from kfp import local

from exfm_components.run_config import RunConfig
from exfm_components.stages import IMAGE
from exfm_pipelines.teach_distil_serve import teach_distil_serve


def main() -> None:
    """Run the pipeline; a failed step ends it with KFP's own error."""
    given = json.load(sys.stdin)
    config = RunConfig.parse(given["run"], source="the run")
    # More than one model at a time would only share this machine's cores, and here a step that fails fails again.
    platform = config.platform.model_copy(update={"max_parallel": 1, "backfill_pods": 1, "retries": 0})
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # each line is shown when it is printed
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=tempfile.mkdtemp(), raise_on_error=True)
    teach_distil_serve(config.model_copy(update={"platform": platform}), image=IMAGE)(until=given["until"])


if __name__ == "__main__":
    main()
