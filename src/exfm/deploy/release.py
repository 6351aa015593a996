"""A release: a version of a vertical model, with all that its objects are made from."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, field_validator

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest, ModelName
from exfm.artifact.digests import Sha256
from exfm.artifact.stores import is_local
from exfm.config import Config
from exfm.deploy.config import DeployConfig
from exfm.errors import BundleError, ConfigError

Version = Annotated[int, Field(ge=1, le=999_999)]

SERVED_SCHEMES = ("pvc", "s3")
"""URL schemes of bundles that pods can read: a mounted claim, and what KServe's storage initializer copies."""


class Annotation(Config):
    """A value that an annotation of an InferenceService holds as JSON."""

    @classmethod
    def read(cls, text: str, *, source: str) -> Self:
        """Return the value of an annotation.

        Raises: ConfigError.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{source}: not JSON: {error}; undeploy the model, and deploy it again") from error
        return cls.parse(data, source=source)

    def text(self) -> str:
        """Return the annotation's value: the same text for equal values, because KServe copies it to pods."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)


class Release(Annotation):
    """A version of a vertical model: where its bundle is and how its shards are laid out."""

    vm: ModelName
    version: Version
    bundle_id: Sha256
    digest: Sha256
    """SHA-256 of the bundle's manifest.json."""
    uri: Annotated[str, StringConstraints(pattern=rf"^({'|'.join(SERVED_SCHEMES)})://[^/]+/.*$")]
    """Where pods read the bundle."""
    shard_bytes: tuple[Annotated[int, Field(ge=0)], ...]
    """Size of each shard's tables and of its index of hot rows."""
    ranker_bytes: Annotated[int, Field(ge=0)] = 0
    """Size of a ranker's index of hot rows."""
    replicas: tuple[Annotated[int, Field(ge=1)], ...]
    """Servers of each shard."""
    rankers: Annotated[int, Field(ge=0)] = 0
    """Least number of rankers by the plan; 0: by the settings."""
    lineage: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Return the release's name in messages."""
        return f"{self.vm} v{self.version}"

    @property
    def num_shards(self) -> int:
        """Return the number of shards."""
        return len(self.shard_bytes)

    @property
    def is_mounted(self) -> bool:
        """Return whether pods mount the whole bundle, from a claim; otherwise each pod copies its part."""
        return self.uri.startswith("pvc://")

    def same_content(self, other: "Release") -> bool:
        """Return whether another release serves the same bundle under the same version."""
        return (self.vm, self.version, self.bundle_id) == (other.vm, other.version, other.bundle_id)


class Switch(Config):
    """An entry of a ranker's history: a switch to a release."""

    release: Release
    settings: DeployConfig = DeployConfig()
    """Settings of the release, which a rollback restores."""
    at_s: Annotated[int, Field(ge=0)]
    """Unix time; 0 for rendered objects, whose time of application is not known."""

    @field_validator("settings", mode="before")
    @classmethod
    def _read_earlier(cls, settings: Any) -> Any:
        return DeployConfig.of_history(settings)


class History(Annotation):
    """The releases that a ranker was switched to, newest first; it serves the first one."""

    switches: Annotated[tuple[Switch, ...], Field(min_length=1)]

    @property
    def current(self) -> Switch:
        """Return the newest switch."""
        return self.switches[0]

    @property
    def previous(self) -> Switch | None:
        """Return the last switch to another version, if there was one."""
        others = (switch for switch in self.switches if switch.release.version != self.current.release.version)
        return next(others, None)

    @property
    def before(self) -> "History | None":
        """Return the history before the last switch, if there was one."""
        return History(switches=self.switches[1:]) if len(self.switches) > 1 else None

    def find(self, version: int) -> Switch | None:
        """Return the last switch to a version, if it is remembered."""
        return next((switch for switch in self.switches if switch.release.version == version), None)


def switched(history: History | None, release: Release, settings: DeployConfig, *, at_s: int) -> History:
    """Return the history after a switch to `release`; it keeps `settings.history` other versions.

    A switch to the current release can change its settings and its bundle's URI; if neither changes, nor does the
    history.

    Raises: ConfigError if rankers could not start with these settings.
    """
    local_tables_mib = settings.ranker.shards.local_tables_mib
    if local_tables_mib and not release.is_mounted:
        raise ConfigError(
            f"ranker.shards.local_tables_mib is {local_tables_mib}, but a ranker copies only its own part of "
            f"{release.uri}, which has no tables; serve the bundle from pvc://CLAIM/PATH, or set 0"
        )
    if history is None:
        return History(switches=(Switch(release=release, settings=settings, at_s=at_s),))
    current = history.current
    if current.release.same_content(release):
        if (current.release, current.settings) == (release, settings):
            return history
        at_s = current.at_s  # so the version before it stays hot no longer
    switch = Switch(release=release, settings=settings, at_s=at_s)
    # Only earlier duplicates are dropped, so that a failed switch can be undone.
    newest = {s.release.version: s for s in reversed(history.switches)}
    rest = [s for s in history.switches if newest[s.release.version] is s]
    others = [s for s in rest if s.release.version != release.version][: settings.history]
    return History(switches=(switch, *(s for s in rest if s in others or s.release.version == release.version)))


def served_uri(bundle: str, *, serve_from: str) -> str:
    """Return where pods read a bundle: `serve_from`, or the bundle's own URI if that is empty.

    Raises: ConfigError if pods cannot read it there.
    """
    uri = serve_from or bundle
    if is_local(uri):
        raise ConfigError(
            f"{uri} is a folder of this machine, which pods cannot read; copy the bundle to s3://BUCKET/PATH, or name "
            "where pods find it by --serve-from s3://BUCKET/PATH or pvc://CLAIM/PATH"
        )
    if not re.match(rf"({'|'.join(SERVED_SCHEMES)})://[^/]+/.", uri):
        raise ConfigError(f"pods cannot read {uri}; expected s3://BUCKET/PATH or pvc://CLAIM/PATH")
    return uri.rstrip("/")


def make_release(manifest: BundleManifest, *, uri: str, digest: str, version: int) -> Release:
    """Return the release of a bundle under a version.

    Raises: BundleError if the bundle has no golden query, which rankers need for their smoke test.
    """
    missing = {GOLDEN_REQUEST, GOLDEN_RESPONSE} - manifest.files.keys()
    if missing:
        raise BundleError(
            f"{uri}: the bundle lacks {', '.join(sorted(missing))}, which rankers need for their smoke test; run the "
            "bundle stage again"
        )
    plan, schema = manifest.plan, manifest.feature_schema
    return Release(
        vm=manifest.name,
        version=version,
        bundle_id=manifest.bundle_id,
        digest=digest,
        uri=uri,
        shard_bytes=tuple(
            plan.flat_size_bytes(shard) + plan.row_set_bytes(schema, shard=shard) for shard in range(plan.num_shards)
        ),
        ranker_bytes=plan.row_set_bytes(schema),
        replicas=plan.replicas,
        rankers=plan.rankers,
        lineage=manifest.lineage,
    )


def choose_version(bundle_id: str, deployed: Sequence[Release]) -> int:
    """Return the version under which a bundle is deployed, or the next free one."""
    same = [release.version for release in deployed if release.bundle_id == bundle_id]
    return max(same) if same else max((release.version for release in deployed), default=0) + 1
