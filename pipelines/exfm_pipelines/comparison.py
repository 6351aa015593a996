"""The comparison of methods after a run, on this machine."""

import os
from contextlib import redirect_stdout
from pathlib import Path

from exfm_components.comparison import compare_methods
from exfm_components.progress import running
from exfm_components.run_config import RunConfig
from exfm_pipelines.screen import screen_on


def run_comparison(run: RunConfig) -> None:
    """Compare methods on a finished run's examples, as the run's `comparison` says, with progress on the screen.

    Raises: StorageError if there are no examples; what `compare_methods` raises.
    """
    with screen_on(Path(os.devnull)) as screen, redirect_stdout(screen), running("compare") as stage:
        found = compare_methods(run.comparison, run, root=run.root, on_window=stage.walked)
        stage.done(found.headline())
