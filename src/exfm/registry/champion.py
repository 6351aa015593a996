"""The champion of a model: the version that candidates are compared with, and how a version becomes it.

All functions raise StorageError if the registry does not answer, or a version was registered without a judgement.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import polars as pl
from mlflow.entities.model_registry import ModelVersion

from exfm.artifact.manifest import read_json, write_json
from exfm.artifact.storage import Ref
from exfm.errors import PromotionError, StorageError
from exfm.registry.mlflow_registry import LEARNED_TAG, Registry, is_foundation, never_served
from exfm.registry.promotion import Judgement, PromotionRule, Verdict, verdict

CHAMPION = "champion"
"""The champion's alias."""

PROMOTED_TAG = "promoted"
"""Tag of a model version that is the champion, or was."""

JUDGED = "judged"
"""The folder, among a run's artifacts, of what judgements need: its own, and the newest recorded predictions."""
JUDGEMENT, RECORDED = "judgement.json", "recorded.parquet"


@dataclass(frozen=True)
class Champion:
    """The version that candidates are compared with."""

    version: int
    bundle: Ref
    learned_until: int
    """End of the last window that it learned, in event time."""
    recorded: pl.DataFrame
    """The newest predictions that it recorded before it learned them (exfm.registry.recorded)."""


def champion_of(registry: Registry, name: str) -> Champion | None:
    """Return a model's champion, or None if it has none."""
    found = comparable_champion(registry, name)
    if found is None:
        return None
    with _judged(registry, found) as folder:
        recorded = pl.read_parquet(folder / RECORDED)
    return Champion(int(found.version), registry.bundle_of(found), int(found.tags[LEARNED_TAG]), recorded)


def comparable_champion(registry: Registry, name: str) -> ModelVersion | None:
    """Return the version of a model's champion, or None if it has none."""
    version = (registry.aliases(name) or {}).get(CHAMPION)
    if version is None:
        return None
    found = registry.version(name, version)
    if LEARNED_TAG not in found.tags:
        raise StorageError(
            f"{name} v{version}, the champion, was registered by an earlier release of exfm, which kept no "
            "predictions to compare with; remove its alias `champion`, and the next version is judged as the first"
        )
    return found


def keep_judgement(registry: Registry, version: ModelVersion, judgement: Judgement, *, recorded: pl.DataFrame) -> None:
    """Write a version's judgement, and the newest predictions that it recorded, among its run's artifacts."""
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        write_json(Path(scratch) / JUDGEMENT, judgement.to_dict())
        recorded.write_parquet(Path(scratch) / RECORDED)
        registry.client.log_artifacts(version.run_id, scratch, JUDGED)


def judgement_of(registry: Registry, name: str, version: int) -> Judgement:
    """Return a version's judgement, made before it was registered."""
    with _judged(registry, registry.version(name, version)) as folder:
        return Judgement.parse(read_json(folder / JUDGEMENT), source=f"judgement of {name} v{version}")


def promote(registry: Registry, name: str, version: int, rule: PromotionRule) -> Verdict:
    """Make a version the champion, and return the verdict on it; nothing changes if it is the champion already.

    Raises: as `require_promotable`.
    """
    found = require_promotable(registry, name, version, rule)
    with registry.reporting():
        registry.client.set_model_version_tag(name, str(version), PROMOTED_TAG, "true")
        registry.client.set_registered_model_alias(name, CHAMPION, str(version))
    return found


def require_promotable(registry: Registry, name: str, version: int, rule: PromotionRule) -> Verdict:
    """Return the verdict on a version that may become the champion, is the champion, or was.

    Raises: PromotionError if it does not pass, or was not judged against the version that is the champion now;
    ConfigError if it is a foundation model's.
    """
    wanted = registry.version(name, version)
    if is_foundation(wanted):
        raise never_served(name)
    judgement = judgement_of(registry, name, version)
    found = verdict(judgement, rule)
    champion = (registry.aliases(name) or {}).get(CHAMPION, 0)
    if champion == version or PROMOTED_TAG in wanted.tags:
        return found
    if judgement.champion != champion:
        before = f"v{judgement.champion}" if judgement.champion else "no champion"
        raise PromotionError(
            f"{name} v{version} does not become champion: it was judged against {before}, but v{champion} is the "
            "champion now; run the pipeline again, which judges and registers it again"
        )
    if not judgement.has_intervals:
        raise PromotionError(
            f"{name} v{version} does not become champion: an earlier release of exfm judged it, without an interval of "
            "its NE; run the pipeline again, which judges and registers it again"
        )
    if found.outcome != "passed":
        raise PromotionError(f"{name} v{version} does not become champion: {found}")
    return found


@contextmanager
def _judged(registry: Registry, version: ModelVersion) -> Iterator[Path]:
    """Yield a folder with a version's judgement and its newest recorded predictions."""
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        with registry.reporting():
            if not registry.client.list_artifacts(version.run_id, JUDGED):
                raise StorageError(
                    f"{version.name} v{version.version} was registered without a judgement; run the pipeline "
                    "again, which judges and registers it again"
                )
            folder = mlflow.artifacts.download_artifacts(
                run_id=version.run_id, artifact_path=JUDGED, dst_path=scratch, tracking_uri=registry.uri
            )
        yield Path(folder)
