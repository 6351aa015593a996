"""A run's pipeline as YAML for a Kubeflow cluster."""

from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
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
    pipeline = _pipeline(config, folder, image=image)
    file = folder / f"{pipeline.name}.yaml"
    compiler.Compiler().compile(pipeline, str(file))
    return file


def compile_objects(config: RunConfig, folder: Path, *, image: str = IMAGE, namespace: str) -> Path:
    """Write a run's pipeline as the objects Pipeline and PipelineVersion, for `kubectl apply`, and return the file.

    Raises: as `compile_pipeline`.
    """
    pipeline = _pipeline(config, folder, image=image)
    file = folder / f"{pipeline.name}.objects.yaml"
    # A version is never changed, so that each specification has a name of its own.
    digest = digest_of_json(MessageToDict(pipeline.pipeline_spec))[:10]
    options = KubernetesManifestOptions(
        pipeline_name=pipeline.name,
        pipeline_version_name=f"{pipeline.name}-{digest}",
        namespace=namespace or None,
        include_pipeline_manifest=True,
    )
    compiler.Compiler().compile(
        pipeline, str(file), kubernetes_manifest_options=options, kubernetes_manifest_format=True
    )
    return file


def _pipeline(config: RunConfig, folder: Path, *, image: str) -> Any:
    """Return the pipeline of a run that names only places which pods can read, and make the output folder."""
    config.check(is_counted=False)
    if local := config.local_places():
        raise ConfigError(f"steps run in pods, which cannot read {', '.join(local)}; name s3://BUCKET/PATH")
    folder.mkdir(parents=True, exist_ok=True)
    return teach_distil_serve(config, image=image)
