"""The pipeline's steps one by one, on this machine: each takes what the steps before it left under the root."""

import inspect
import os
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kfp import dsl

from exfm.artifact.bundle import find_bundle
from exfm.artifact.storage import ref_to
from exfm.artifact.stores import exists
from exfm_components import layout
from exfm_components.platform import Step
from exfm_components.run_config import RunConfig
from exfm_components.stages import data_processing, deployment, evaluation, training
from exfm_pipelines.screen import screen_on

COMPONENTS: Mapping[Step, Any] = {
    "ingest": data_processing.ingest, "label": data_processing.make_labels, "train-fm": training.train_foundation,
    "join": data_processing.join_examples, "train-vm": training.train_vertical,
    "bundle": deployment.make_bundle, "judge": evaluation.judge, "register": deployment.register,
    "smoke-test": evaluation.smoke_test, "report": evaluation.report,
}  # fmt: skip
"""Steps that can be run one by one."""


def run_step(step: Step, run: RunConfig, *, model: str = "") -> None:
    """Run one step in this process, with its progress on the screen, and then the verdicts, if it judges.

    `model` is the foundation or vertical model of a step for one. `register` judges first; `report` is without the
    registry.

    Raises: ConfigError if the run has no such model; what the step raises.
    """
    with screen_on(Path(os.devnull)) as screen, redirect_stdout(screen):
        if step == "ingest":
            run.check(is_counted=False)
        if step == "register":
            judgements, page = _call("judge", run)
            _call("register", run, given={"judgements": judgements})
        else:
            _, page = _call(step, run, model=model)
    if page:
        print(f"\n{page}", end="")


def _call(
    step: Step, run: RunConfig, *, model: str = "", given: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Any, str]:
    """Return what a step's component returns, and the text of its Markdown artifact if it has one."""
    component = COMPONENTS[step]
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        arguments: dict[str, Any] = {}
        for name, parameter in inspect.signature(component.python_func).parameters.items():
            if hasattr(parameter.annotation, "__metadata__"):  # dsl.Input or dsl.Output: an artifact
                arguments[name] = parameter.annotation.__origin__(uri=f"{scratch}/{name}")
            else:
                arguments[name] = given[name] if name in given else _parameter(name, run, model)
        returned = component.python_func(**arguments)
        pages = [Path(one.path) for one in arguments.values() if isinstance(one, dsl.Markdown)]
        return returned, "".join(page.read_text(encoding="utf-8") for page in pages)


def _parameter(name: str, run: RunConfig, model: str) -> Any:
    """Return a component's parameter of this name, from the run and what its steps left under the root."""
    root, vertical_models = run.root, [vertical.name for vertical in run.vertical_models]
    match name:
        case "run":
            return run.to_dict()
        case "root":
            return root
        case "until" | "share":  # empty: whatever is due
            return ""
        case "foundation_model":
            return run.foundation_model(model).to_dict()
        case "foundations":
            trained = [foundation.name for foundation in run.foundation_models if not foundation.published]
            return [_ref(layout.model(root, foundation)) for foundation in trained]
        case "vertical_model":
            return run.vertical_model(model).to_dict()
        case "vertical":
            return _ref(layout.model(root, model))
        case "verticals":
            return [_ref(layout.model(root, vertical)) for vertical in vertical_models]
        case "bundles":
            return [_ref(find_bundle(layout.bundles(root, vertical))) for vertical in vertical_models]
        case "smoke_test":
            return layout.smoke_test(root)
        case "comparison":
            return layout.comparison(root) if exists(layout.comparison(root)) else ""
        case _:
            assert name == "registrations", f"no step leaves {name}"
            return []


def _ref(uri: str) -> dict[str, Any]:
    return ref_to(uri).to_dict()
