"""The pipeline's last step: registered versions that pass against their champions are rolled out, and take their place.

Here the registry and the cluster meet; neither knows of the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from exfm.artifact.bundle import read_manifest
from exfm.artifact.storage import Ref
from exfm.deploy.cluster import Cluster
from exfm.deploy.observation import observe
from exfm.deploy.release import SERVED_SCHEMES
from exfm.deploy.stage import Deployable, deploy
from exfm.errors import BundleError, ConfigError, DeployError, PromotionError, StageError, StorageError
from exfm.registry.champion import promote, require_promotable
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, Verdict, verdict
from exfm.registry.registration import Registration
from exfm.registry.replay import ReplayConfig, with_replay
from exfm.registry.standing import keep_outcome
from exfm.report.verdicts import SIGNS
from exfm.report.verdicts import to_markdown as verdicts_to_markdown
from exfm_components.deployment_config import DeploymentConfig

Outcome = Literal["serves", "refused", "nothing new", "failed"]


@dataclass(frozen=True)
class Candidate:
    """A registered version, and its judgement."""

    registration: Registration
    judgement: Judgement


@dataclass(frozen=True)
class Result:
    """The outcome of a candidate."""

    name: str
    version: int
    outcome: Outcome
    text: str
    """Why."""
    replayed: Verdict | None = None
    """The verdict with the figures of a replay; None: nothing was replayed."""

    def __str__(self) -> str:
        """Return one line."""
        version = f"{self.name} v{self.version}"
        return f"{version} serves" if self.outcome == "serves" else f"{version} is not deployed ({self.text})"


def deploy_models(
    candidates: Sequence[Candidate], *, root: str, config: DeploymentConfig, report: Callable[[str], None]
) -> list[Result]:
    """Deploy the candidates that pass, in order, and return the outcome of each, which the registry has, too.

    A version that does not pass is not deployed, and the version before keeps serving. A champion without a newer
    candidate is deployed where no version of its model serves.

    Raises: ConfigError, before anything is rolled out, if pods cannot read a bundle; ClusterError if there is no
    cluster; StorageError if the registry does not answer.
    """
    registry = Registry.at(root, create=False)
    cluster = Cluster.connect(namespace=config.settings.namespace)
    uris = [
        readable_uri([one.registration.place, one.registration.bundle.uri], root=root, served_root=config.served_root)
        for one in candidates
    ]
    results = []
    for candidate, uri in zip(candidates, uris, strict=True):
        result = _deploy(registry, cluster, candidate, uri=uri, config=config, report=report)
        if result.outcome != "nothing new":
            keep_outcome(registry, result.name, result.version, str(result))
        results.append(result)
    return results


def require_deployed(results: Sequence[Result]) -> None:
    """Return if no rollout failed.

    Raises: StageError, with the outcome of every candidate.
    """
    if any(result.outcome == "failed" for result in results):
        raise StageError("; ".join(map(str, results)))


def to_markdown(results: Sequence[Result]) -> str:
    """Return a page with the outcome of each candidate, and every figure of those that had requests replayed."""
    rows = [
        f"| {SIGNS[result.outcome]} {result.outcome} | {result.name} | v{result.version} | {result.text} |"
        for result in results
    ]
    table = "\n".join(["# Deployment", "", "| | model | version | why |", "| --- | --- | --- | --- |", *rows, ""])
    replayed = verdicts_to_markdown([result.replayed for result in results if result.replayed])
    return f"{table}\n{replayed}" if replayed else table


def readable_uri(uris: Sequence[str], *, root: str, served_root: str) -> str:
    """Return the first of a bundle's URIs that pods can read, those below `root` by the name that pods know.

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


def _deploy(
    registry: Registry,
    cluster: Cluster,
    candidate: Candidate,
    *,
    uri: str,
    config: DeploymentConfig,
    report: Callable[[str], None],
) -> Result:
    registration, found = candidate.registration, verdict(candidate.judgement, config.promotion)
    name, version = registration.name, int(registration.version)
    is_away = found.outcome == "nothing new" and observe(cluster, name).history is None
    if found.outcome != "passed" and not is_away:
        return Result(name, version, found.outcome, str(found))
    try:
        require_promotable(registry, name, version, config.promotion)
    except PromotionError as error:  # another version became champion since it was judged
        return Result(name, version, "refused", str(error))
    replayed = None
    if config.replay.log and candidate.judgement.champion and not is_away:
        try:
            replayed = found = _replayed(registry, candidate, found, config.replay, report)
        except (BundleError, StorageError) as error:  # the other models' outcomes are told all the same
            return Result(name, version, "failed", str(error))
        if found.outcome != "passed":
            return Result(name, version, found.outcome, str(found), replayed)
    bundle = Ref(uri=registration.place, digest=registration.bundle.digest)
    deployable = Deployable(manifest=read_manifest(bundle), digest=bundle.digest, uri=uri, version=version)
    try:
        deploy(cluster, deployable, config.settings, report=report)
    except DeployError as error:
        return Result(name, version, "failed", str(error), replayed)
    promote(registry, name, version, config.promotion)
    return Result(name, version, "serves", "no version of it was deployed" if is_away else str(found), replayed)


def _replayed(
    registry: Registry, candidate: Candidate, found: Verdict, config: ReplayConfig, report: Callable[[str], None]
) -> Verdict:
    """Return a verdict with the figures of replayed requests."""
    from exfm.registry.replaying import replay_version  # torch takes seconds, and most runs replay nothing

    registration, champion = candidate.registration, candidate.judgement.champion
    replay = replay_version(
        registry, registration.name, candidate=registration.bundle, champion=champion, config=config
    )
    report(f"{registration.name} v{registration.version}: {replay}")
    return with_replay(found, replay, config)
