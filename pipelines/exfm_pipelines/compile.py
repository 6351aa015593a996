"""Pipelines as YAML for a Kubeflow cluster."""

from pathlib import Path

from kfp import compiler

from exfm_pipelines.teach_distil_serve import teach_distil_serve


def compile_pipelines(folder: Path, *, max_parallel: int) -> list[Path]:
    """Write every pipeline's YAML into a folder, and return the files.

    `max_parallel` vertical models are trained at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for pipeline in (teach_distil_serve(max_parallel=max_parallel),):
        file = folder / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        files.append(file)
    return files
