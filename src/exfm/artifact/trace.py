"""A trace: requests as rankers got them, with their ids hashed, so that a plan can be made for them and tried on them.

A ranker's trace is a folder, to which files of requests are added:

manifest.json                 TraceManifest, written again after each file
requests-00000.safetensors    R requests as they arrived, one after another:
    arrival_ns            int64 [R]   nanoseconds since 1970-01-01 UTC
    user.rows, item.rows  int64 [R]   users and candidates of each request
    <feature>.keys        uint64      keys of a sparse feature's bags, request after request, row after row
    <feature>.lengths     int32       keys of each bag, one bag for each row of the feature's net

Keys are hashes of ids, no more: a trace tells who asked only to whoever knows all ids.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import Field

from exfm.artifact.digests import FileDigest, digest_of_file, verify_folder
from exfm.artifact.manifest import json_bytes, read_json
from exfm.artifact.rows import Keys
from exfm.artifact.storage import MANIFEST, write_file
from exfm.config import Config
from exfm.errors import ConfigError, DataError, StorageError
from exfm.schema import NETS, Net, Schema

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """Some requests, R of them, each feature's keys in one array."""

    arrival_ns: npt.NDArray[np.int64]
    """Shape [R]; nanoseconds since 1970-01-01 UTC."""
    num_rows: Mapping[Net, Counts]
    """Users and candidates of each request; shape [R] each."""
    keys: Mapping[str, Keys]
    """By sparse feature."""
    lengths: Mapping[str, npt.NDArray[np.int32]]
    """By sparse feature: keys of each row's bag."""

    def __len__(self) -> int:
        """Return R."""
        return len(self.arrival_ns)


class TraceFile(Config):
    """A file of a trace."""

    name: str
    num_requests: Annotated[int, Field(ge=1)]
    digest: FileDigest


class TraceManifest(Config):
    """What one ranker recorded."""

    format_version: Literal[1] = 1
    model: str
    """That the ranker serves."""
    bundle_id: str
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    """The share of the requests that was kept, each with this probability."""
    features: dict[str, Net]
    """The sparse features, each with its net."""
    files: tuple[TraceFile, ...] = ()

    @property
    def num_requests(self) -> int:
        """Return the number of requests recorded."""
        return sum(file.num_requests for file in self.files)


class TraceWriter:
    """Adds files to a new trace."""

    def __init__(self, folder: Path, *, model: str, bundle_id: str, sampling_rate: float, schema: Schema) -> None:
        """Start a trace without requests; the folder is made.

        Raises: StorageError if there is a trace already, or none can be written.
        """
        if (folder / MANIFEST).exists():
            raise StorageError(f"{folder} holds a trace already; name another folder")
        self._folder = folder
        self.manifest = TraceManifest(
            model=model,
            bundle_id=bundle_id,
            sampling_rate=sampling_rate,
            features={feature.name: feature.net for feature in schema.sparse},
        )
        self._write(self.manifest)

    def add(self, requests: Requests) -> None:
        """Write requests, at least one, into a file of their own.

        Raises: StorageError if that fails; what was written before stays readable.
        """
        name = f"requests-{len(self.manifest.files):05d}.safetensors"
        path = self._folder / name
        try:  # straight into a file: as bytes, 8 MB of them held the GIL for 9 ms, and a ranker's requests with it
            safetensors.numpy.save_file(_tensors_of(requests), path)
            path.chmod(0o644)  # safetensors makes it private
            digest = digest_of_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise StorageError(f"{path}: {error}; make room, or let this user write there") from error
        file = TraceFile(name=name, num_requests=len(requests), digest=digest)
        manifest = self.manifest.model_copy(update={"files": (*self.manifest.files, file)})
        self._write(manifest)
        self.manifest = manifest

    def _write(self, manifest: TraceManifest) -> None:
        write_file(str(self._folder / MANIFEST), json_bytes(manifest.to_dict()))


@dataclass(frozen=True)
class Trace:
    """What one ranker or several recorded of one model's requests, all at one sampling rate."""

    parts: tuple[tuple[Path, TraceManifest], ...]
    """Each ranker's folder and manifest, in order of folders."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the traces in a folder and below it, those without requests aside.

        Raises: StorageError if there is none, one cannot be read, or they do not add up to one.
        """
        found = [(path.parent, _read_manifest(path)) for path in sorted(folder.rglob(MANIFEST))]
        parts = tuple((place, manifest) for place, manifest in found if manifest.files)
        if not parts:
            empty = f", {len(found)} without" if found else ""
            raise StorageError(f"{folder}: 0 traces with a request{empty}; let a ranker record some (`trace_folder`)")
        for part in parts[1:]:
            _check_adds_up(parts[0], part)
        return cls(parts)

    @property
    def features(self) -> Mapping[str, Net]:
        """Return the sparse features, each with its net."""
        return self.parts[0][1].features

    @property
    def num_requests(self) -> int:
        """Return the number of requests recorded."""
        return sum(manifest.num_requests for _, manifest in self.parts)

    def arrivals_ns(self) -> npt.NDArray[np.int64]:
        """Return when each request arrived, in the order of `blocks`; nothing else is read.

        Raises: StorageError if a file is missing or malformed.
        """
        return np.concatenate([_read_tensors(path, ["arrival_ns"])["arrival_ns"] for path in self._paths()])

    def blocks(self) -> Iterator[Requests]:
        """Yield the requests of one file after another, each file verified.

        Raises: StorageError if a file is missing, damaged or malformed.
        """
        for folder, manifest in self.parts:
            for file in manifest.files:
                verify_folder(folder, {file.name: file.digest})
                yield _requests_of(folder / file.name, manifest)

    def _paths(self) -> list[Path]:
        return [folder / file.name for folder, manifest in self.parts for file in manifest.files]


def require_features(trace: Trace, schema: Schema) -> None:
    """Return if a trace has the sparse features of a schema, each of the net that it has there.

    Raises: DataError, which names the first that it lacks.
    """
    for feature in schema.sparse:
        found = trace.features.get(feature.name)
        if found != feature.net:
            what = "is missing in" if found is None else f"is of net {found!r} in"
            raise DataError(
                f"feature {feature.name!r} of net {feature.net!r} {what} the trace, whose features are "
                f"{', '.join(trace.features)}; record requests of a model of this schema"
            )


def _tensors_of(requests: Requests) -> dict[str, npt.NDArray[Any]]:
    tensors: dict[str, npt.NDArray[Any]] = {"arrival_ns": requests.arrival_ns}
    tensors |= {f"{net}.rows": counts for net, counts in requests.num_rows.items()}
    tensors |= {f"{name}.keys": keys for name, keys in requests.keys.items()}
    return tensors | {f"{name}.lengths": lengths for name, lengths in requests.lengths.items()}


def _check_adds_up(first: tuple[Path, TraceManifest], other: tuple[Path, TraceManifest]) -> None:
    (place, manifest), (other_place, other_manifest) = first, other
    if other_manifest.model != manifest.model:
        raise StorageError(
            f"{other_place} is a trace of model {other_manifest.model!r}, {place} of {manifest.model!r}; keep each "
            "model's in a folder of its own"
        )
    if other_manifest.features != manifest.features:
        raise StorageError(f"{other_place} and {place} are traces of models with other features; read them apart")
    if other_manifest.sampling_rate != manifest.sampling_rate:
        raise StorageError(
            f"{other_place} has a share of {other_manifest.sampling_rate:g} of a ranker's requests, {place} of "
            f"{manifest.sampling_rate:g}, so they do not count alike; count them apart, or record at one "
            "`trace_sampling_rate`"
        )


def _read_manifest(path: Path) -> TraceManifest:
    try:
        return TraceManifest.parse(read_json(path), source=str(path))
    except ConfigError as error:
        raise StorageError(f"no trace: {error}") from error


def _requests_of(path: Path, manifest: TraceManifest) -> Requests:
    names = [f"{name}.{part}" for name in manifest.features for part in ("keys", "lengths")]
    tensors = _read_tensors(path, ["arrival_ns", *(f"{net}.rows" for net in NETS), *names])
    requests = Requests(
        arrival_ns=tensors["arrival_ns"],
        num_rows={net: tensors[f"{net}.rows"] for net in NETS},
        keys={name: tensors[f"{name}.keys"] for name in manifest.features},
        lengths={name: tensors[f"{name}.lengths"] for name in manifest.features},
    )
    for name, net in manifest.features.items():
        num_rows, num_bags = int(requests.num_rows[net].sum()), len(requests.lengths[name])
        num_keys, expected = len(requests.keys[name]), int(requests.lengths[name].sum())
        if num_bags != num_rows or num_keys != expected:
            raise StorageError(
                f"{path}: feature {name!r} has {num_bags} bags for {num_rows} rows of its net, and {num_keys} keys "
                f"where their lengths sum to {expected}; record the trace again"
            )
    return requests


def _read_tensors(path: Path, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"{path}: {error}; record the trace again") from error
