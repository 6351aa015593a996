"""The components: each runs one stage of exfm, and returns a reference to its output ({uri, digest}).

They lie as in kubeflow/pipelines-components: CATEGORY/NAME/component.py. `make components` makes each README.md and
docs/components.md from docstrings and signatures.

KFP copies a component's source into the pipeline, so each imports what it needs inside; it only turns parameters
into values, calls the stage and reports its output. `run` is a whole exfm_components.run_config.RunConfig, so that a
UI can set it; `root` replaces the run's own. A component does what is due below the root, so run again it goes on, or
does nothing. KFP 2.17's local runner loops over what a task returns only, not over one of several outputs.
"""

from functools import partial
from importlib.metadata import version

from kfp import dsl

IMAGE = f"exfm-pipelines:{version('exfm')}"
"""What the components run in on a cluster, where no image is named."""

component = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
"""Makes a function a component in that image, which has kfp already."""
