"""The pipeline's last step: registered versions that pass against their champions are rolled out, and take their place.

Here the registry and the cluster meet; neither knows of the other.
"""

from collections.abc import Callable, Sequence

from exfm.artifact.bundle import read_manifest
from exfm.artifact.storage import Ref
from exfm.deploy.cluster import Cluster
from exfm.deploy.release import SERVED_SCHEMES
from exfm.deploy.stage import Deployable, deploy
from exfm.errors import ConfigError
from exfm.registry.mlflow_registry import Registration, Registry
from exfm_components.deployment_config import DeploymentConfig


def deploy_models(
    *,
    root: str,
    registrations: Sequence[Registration],
    bundles: Sequence[Ref],
    config: DeploymentConfig,
    say: Callable[[str], None],
) -> str:
    """Deploy what passes, in order, and return one line about all of them.

    A version that does not pass is not deployed, and what served before serves on; a model's first version, which
    nothing can be held against, passes if it is calibrated.

    Raises: ConfigError if pods can read a bundle nowhere; what exfm.deploy raises.
    """
    registry = Registry.at(root, create=False)
    cluster = Cluster.connect(namespace=config.settings.namespace)
    lines = []
    for registration, bundle in zip(registrations, bundles, strict=True):
        version = int(registration.version)
        verdict = registry.judge(registration.name, version, config.promotion)
        if not verdict.passed:
            lines.append(f"{registration.name} v{version} is not deployed ({verdict})")
            continue
        deployable = Deployable(
            manifest=read_manifest(bundle),
            digest=bundle.digest,
            uri=readable_uri([registration.bundle.uri, bundle.uri], root=root, served_root=config.served_root),
            version=version,
        )
        deploy(cluster, deployable, config.settings, say=say)
        registry.promote(registration.name, version, config.promotion)
        lines.append(f"{registration.name} v{version} serves")
    return ", ".join(lines)


def readable_uri(uris: Sequence[str], *, root: str, served_root: str) -> str:
    """Return the first of a bundle's URIs that pods can read, those below `root` by its name among pods.

    Raises: ConfigError if there is none.
    """
    below, elsewhere = f"{root.rstrip('/')}/", f"{served_root.rstrip('/')}/"
    seen = [uri.replace(below, elsewhere, 1) if served_root and uri.startswith(below) else uri for uri in uris]
    for uri in seen:
        if uri.partition("://")[0] in SERVED_SCHEMES:
            return uri
    raise ConfigError(
        f"pods can read none of {', '.join(seen)}; run with a root of s3://BUCKET/PATH, or name the claim that holds "
        "it as deployment.served_root"
    )
