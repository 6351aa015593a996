"""All components, in the order in which a pipeline uses them, and their YAML for pipelines of other people."""

from pathlib import Path
from typing import Any

from kfp import compiler

from exfm_components.stages import IMAGE, component
from exfm_components.stages.data_processing import check, ingest, join_examples, make_labels, score
from exfm_components.stages.deployment import deploy, make_bundle, register
from exfm_components.stages.evaluation import compare, judge, report, smoke_test
from exfm_components.stages.training import train_foundation, train_vertical

COMPONENTS: tuple[Any, ...] = (
    check, ingest, make_labels, score, train_foundation, join_examples, train_vertical, make_bundle,
    compare, judge, register, smoke_test, report, deploy,
)  # fmt: skip


def compile_components(folder: Path, *, image: str = IMAGE) -> list[Path]:
    """Write each component as NAME.yaml into a folder, to run in an image, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{one.python_func.__name__}.yaml": one.python_func for one in COMPONENTS}
    for file, function in files.items():
        compiler.Compiler().compile(component(function, base_image=image), str(file))
    return list(files)
