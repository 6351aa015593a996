"""A run's pipeline as YAML for a Kubeflow cluster."""

from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from exfm.artifact.digests import digest_of_json
from exfm.errors import ConfigError
from exfm_components.run_config import RunConfig
from exfm_components.stages import IMAGE
from exfm_pipelines.teach_distil_serve import teach_distil_serve


def compile_pipeline(config: RunConfig, folder: Path, *, image: str = IMAGE) -> Path:
    """Write a run's pipeline into a folder, to be uploaded to Kubeflow Pipelines, and return the file.

    Raises: ConfigError if the run names places on this machine; and what RunConfig.check raises.
    """
    return _package(_pipeline(config, folder, image=image), folder)


def compile_objects(config: RunConfig, folder: Path, *, image: str = IMAGE, namespace: str) -> Path:
    """Write a run's pipeline as the objects Pipeline and PipelineVersion, for `kubectl apply`, and return the file.

    Raises: as `compile_pipeline`.
    """
    pipeline = _pipeline(config, folder, image=image)
    file = folder / f"{pipeline.name}.objects.yaml"
    options = KubernetesManifestOptions(
        pipeline_name=pipeline.name,
        pipeline_version_name=version_name(_package(pipeline, folder)),
        namespace=namespace or None,
        include_pipeline_manifest=True,
    )
    compiler.Compiler().compile(
        pipeline, str(file), kubernetes_manifest_options=options, kubernetes_manifest_format=True
    )
    return file


def step_names(package: Path) -> dict[str, str]:
    """Return what people read of each step of a package, by the name that Kubeflow knows it by."""
    spec = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    components = spec["components"]
    dags = [spec["root"]["dag"], *(one["dag"] for one in components.values() if "dag" in one)]
    return {
        name: task["taskInfo"]["name"]
        for dag in dags
        for name, task in dag["tasks"].items()
        if "executorLabel" in components[task["componentRef"]["name"]]
    }


def version_name(package: Path) -> str:
    """Return the name of a package's version: a version is never changed, so each package has a name of its own."""
    documents = list(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    return f"{package.stem}-{digest_of_json(documents)[:10]}"


def _package(pipeline: Any, folder: Path) -> Path:
    file = folder / f"{pipeline.name}.yaml"
    compiler.Compiler().compile(pipeline, str(file))
    return file


def _pipeline(config: RunConfig, folder: Path, *, image: str) -> Any:
    """Return the pipeline of a run that names only places which pods can read, and make the output folder."""
    config.check(is_counted=False)
    if local := config.local_places():
        raise ConfigError(f"steps run in pods, which cannot read {', '.join(local)}; name s3://BUCKET/PATH")
    folder.mkdir(parents=True, exist_ok=True)
    return teach_distil_serve(config, image=image)
