"""Where events come from: a config chooses one source by its `kind`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from exfm.artifact.source_files import locate
from exfm.artifact.stores import resolve_path
from exfm.events.log import RawLog
from exfm.events.movielens import MovieLensSource, load_movielens
from exfm.events.movielens_files import recognise
from exfm.events.names import checked_names, read_names
from exfm.events.parquet import LogSource, told_by
from exfm.events.synthetic import SyntheticSource, load_synthetic
from exfm.schema import Schema

Source = Annotated[MovieLensSource | SyntheticSource | LogSource, Field(discriminator="kind")]


@dataclass(frozen=True)
class About:
    """What people should know of a source."""

    source: str
    """What the events are, in words."""
    notes: tuple[str, ...]
    """Sentences that a report on these events must repeat."""
    names: Mapping[str, Mapping[Any, str]]
    """Names of ids, by feature."""


@cache
def load(source: MovieLensSource | SyntheticSource) -> RawLog:
    """Return a data set's events; they stay in memory.

    Paths are taken as they are: whoever reads a config file resolves them.

    Raises: DataError if a file or folder is missing, or its rows are malformed; StorageError if a store has no such
    files, or does not answer.
    """
    match source:
        case MovieLensSource():
            return load_movielens(source)
        case SyntheticSource():
            return load_synthetic(source)


def about(source: Source, schema: Schema) -> About:
    """Return what people should know of a source; no events of a log are read, only what its first file says of them.

    Raises: as `load` does; DataError if names of ids are wrong.
    """
    if isinstance(source, LogSource):
        told, notes = told_by(source.impressions)
        text = f"{told}{', ' if told else ''}Parquet files {source.impressions} and {source.feedback}"
        names = {feature: read_names(files, feature=feature) for feature, files in source.names.items()}
        return About(text, notes, checked_names(names, schema))
    log = load(source)
    return About(log.source, log.notes, checked_names(log.names, schema))


def places_of(source: Source) -> dict[str, str]:
    """Return the paths and URLs that a source reads, by the key of a run's file."""
    match source:
        case MovieLensSource():
            return {"source.folder": source.folder}
        case LogSource():
            names = {f"source.names.{feature}": files for feature, files in source.names.items()}
            return {"source.impressions": source.impressions, "source.feedback": source.feedback, **names}
        case SyntheticSource():
            return {}


def require_source(source: Source) -> None:
    """Return if the files that a source reads are there.

    Raises: DataError or StorageError if they are not, or a store does not say.
    """
    if isinstance(source, MovieLensSource):
        recognise(source.folder)
    else:
        for place in places_of(source).values():
            locate(place)


def resolve(source: Source, *, base: Path) -> Source:
    """Return a source whose relative paths start at `base`."""
    match source:
        case MovieLensSource():
            return source.model_copy(update={"folder": resolve_path(source.folder, base=base)})
        case LogSource():
            paths = {
                "impressions": resolve_path(source.impressions, base=base),
                "feedback": resolve_path(source.feedback, base=base),
                "names": {feature: resolve_path(file, base=base) for feature, file in source.names.items()},
            }
            return source.model_copy(update=paths)
        case SyntheticSource():
            return source
