"""A bundle: all that serving needs of one vertical model, as files whose digests make up its identity.

A model's bundles are in one folder, each in a folder named by its id, which is never written again; `latest.json` names
the newest. In a bundle:

manifest.json             BundleManifest
ranker/dense.safetensors  the dense network's parameters
ranker/fallback.safetensors
                          a row for each table (exfm.artifact.fallback_rows); old bundles have none
ranker/hot_rows.safetensors
                          the hot rows of each table with a hot slice (exfm.artifact.hot_rows); there only if the
                          plan has one
shards/<i>/tables.safetensors
                          a flat uint8 tensor, named by the tables' encoding, with slices at the plan's offsets, so
                          that a shard can map it without copying
shards/<i>/hot_rows.safetensors
                          those of the hot slices on the shard; there only if it has one
golden/request.json       a request (OIP JSON) and the scores that the bundle gave it at export
golden/response.json
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from exfm.artifact.digests import FileDigest, Sha256, digest_of_json, digests_of_folder, verify_folder
from exfm.artifact.fallback_rows import FALLBACK_FILE
from exfm.artifact.manifest import json_bytes, parse_json, write_json
from exfm.artifact.plan import ShardPlan
from exfm.artifact.storage import MANIFEST, Ref
from exfm.artifact.stores import exists, is_local, join, read_file, write_file
from exfm.config import Config, like
from exfm.errors import BundleError, ConfigError, PlanError, StorageError
from exfm.schema import Schema, WrittenSchema

ModelName = Annotated[
    str,
    like(
        "[a-z]([-a-z0-9]{0,28}[a-z0-9])?",
        "a lower-case letter, then such, digits and dashes, no dash at the end; at most 30 in all",
    ),
]
"""A DNS label of at most 30 characters that starts with a letter: Kubernetes objects are named by it."""

DENSE_FILE = "ranker/dense.safetensors"
LATEST = "latest.json"
"""The file, in the folder of a model's bundles, with the newest one's `bundle_id`."""

GOLDEN_REQUEST = "golden/request.json"
GOLDEN_RESPONSE = "golden/response.json"


def tables_file(shard: int) -> str:
    """Return the path of a shard's tables in a bundle."""
    return f"shards/{shard}/tables.safetensors"


class BundleManifest(Config):
    """What a bundle is; its id is the digest of all the rest."""

    format_version: Literal[1] = 1
    bundle_id: Sha256
    name: ModelName
    tasks: tuple[str, ...]
    """The outputs, in the order of the network's heads."""
    feature_schema: WrittenSchema
    """The part of the log's schema that this model uses."""
    network: dict[str, Any]
    """Sizes of the dense network, as exfm.models reads them."""
    plan: ShardPlan
    id_maps: dict[str, str] = {}
    """Empty: the keys of all tables are hashed. Earlier releases wrote it, too."""
    fallback_rows: str = ""
    """The file with a row for each table, to answer with while its shard is unavailable. Empty: there is none."""
    lineage: dict[str, str]
    """Event windows, version of the examples, foundation-model snapshot and the like."""
    files: dict[str, FileDigest]

    @classmethod
    def read(cls, folder: Path, *, verify: bool = True) -> Self:
        """Return a bundle's manifest; with `verify`, after the digest of every file was checked.

        Raises: BundleError, which names what is missing, malformed or damaged.
        """
        path = folder / MANIFEST
        try:
            manifest = cls.of(path.read_bytes(), source=str(path))
            if verify:
                verify_folder(folder, manifest.files)
        except BundleError:
            raise
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
        except StorageError as error:
            raise BundleError(str(error)) from error
        return manifest

    @classmethod
    def of(cls, content: bytes, *, source: str) -> Self:
        """Return the manifest that a file holds; `source` names the file in errors.

        Raises: BundleError.
        """
        try:
            data = parse_json(content, source=source)
            version = data.get("format_version") if isinstance(data, dict) else None
            if version != 1:
                raise BundleError(
                    f"{source}: format_version is {version!r}, this version of exfm reads 1; export again"
                )
            manifest = cls.parse(data, source=source)
            manifest.plan.check(manifest.feature_schema)
        except (ConfigError, PlanError, StorageError) as error:
            raise BundleError(str(error)) from error
        expected = _identity(data)  # as it stands: a field that came later has no part in an older bundle's id
        if manifest.bundle_id != expected:
            raise BundleError(f"{source}: bundle_id is {manifest.bundle_id}, but the content's is {expected}")
        return manifest


class _Latest(Config):
    """What LATEST holds."""

    bundle_id: Sha256


def find_bundle(uri: str) -> str:
    """Return where a bundle is: `uri` itself or, where that is the folder of a model's bundles, the newest in it.

    Raises: StorageError if the store does not answer; ConfigError if LATEST is malformed.
    """
    place = join(uri, LATEST)
    if not exists(place):
        return uri
    return join(uri, _Latest.parse(parse_json(read_file(place), source=place), source=place).bundle_id)


def note_latest(folder: str, bundle_id: str) -> None:
    """Make a bundle the newest in the folder of its model's bundles.

    Raises: StorageError if LATEST cannot be written.
    """
    write_file(join(folder, LATEST), json_bytes({"bundle_id": bundle_id}))


def read_plan(uri: str) -> ShardPlan:
    """Return the plan in a JSON file, or that of a bundle; `uri` is a path or URL of either.

    Raises: StorageError if it cannot be read; ConfigError or BundleError if it is malformed.
    """
    if Path(uri).is_dir() or not (is_local(uri) or uri.endswith(".json")):
        place = join(find_bundle(uri), MANIFEST)
        return BundleManifest.of(read_file(place), source=place).plan
    return ShardPlan.parse(parse_json(read_file(uri), source=uri), source=uri)


def read_manifest(bundle: Ref) -> BundleManifest:
    """Return a bundle's manifest, whose digest was checked; its other files stay where they are.

    Raises: BundleError, StorageError.
    """
    file = join(bundle.uri, MANIFEST)
    content = read_file(file)
    found = sha256(content).hexdigest()
    if found != bundle.digest:
        raise BundleError(
            f"{bundle.uri}: {MANIFEST} has SHA-256 {found}, expected {bundle.digest}; "
            "the bundle was written again since: name the digest of what is there, or the bundle that is meant"
        )
    return BundleManifest.of(content, source=file)


def draft_bundle(
    *, name: str, schema: Schema, network: dict[str, Any], plan: ShardPlan, lineage: dict[str, str]
) -> BundleManifest:
    """Return the manifest of a bundle that is being made, without files and id.

    Raises: PlanError if the plan is not one for the schema.
    """
    return BundleManifest(
        bundle_id="0" * 64,
        name=name,
        tasks=schema.tasks(),
        feature_schema=schema,
        network=network,
        plan=plan.check(schema),
        lineage=lineage,
        files={},
    )


def seal_bundle(folder: Path, draft: BundleManifest) -> BundleManifest:
    """Write the manifest of the bundle whose files are in `folder`, and return it."""
    (folder / MANIFEST).unlink(missing_ok=True)  # an older one is no part of this bundle
    files = digests_of_folder(folder)
    fallback = FALLBACK_FILE if FALLBACK_FILE in files else ""
    content = draft.model_copy(update={"files": files, "fallback_rows": fallback})
    manifest = content.model_copy(update={"bundle_id": _identity(content.to_dict())})
    write_json(folder / MANIFEST, manifest.to_dict())
    return manifest


def _identity(manifest: dict[str, Any]) -> str:
    return digest_of_json({key: value for key, value in manifest.items() if key != "bundle_id"})
