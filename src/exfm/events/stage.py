"""The stage that makes an event log."""

from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType

from exfm.artifact.output import writing
from exfm.errors import ConfigError
from exfm.events.log import EventLogManifest, write_event_log
from exfm.events.sources import Source, load
from exfm.schema import Schema

NAMES_SHOWN = 20
"""Domains that a message lists: a wrong column may have millions."""


def ingest(
    source: Source,
    *,
    schema: Schema,
    window_length: int,
    out: str,
    domains: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> EventLogManifest:
    """Write a source's events as an event log; return its manifest.

    `window_length` is in the schema's time unit. `domains` are those that a vertical model learns from, by its name.

    Raises: ConfigError if no impression is of such a domain; StorageError if `out` cannot be written, or the source's
    store does not answer; DataError if the source is missing, or its rows break a rule of the schema.
    """
    with writing(out) as folder:
        log = load(source, schema=schema)
        manifest = write_event_log(log, schema=schema, window_length=window_length, folder=folder)
        _require_domains(domains, set(log.impressions[schema.domain]))
        return manifest


def _require_domains(domains: Mapping[str, Sequence[str]], known: Set[str]) -> None:
    unknown = {model: [domain for domain in of_model if domain not in known] for model, of_model in domains.items()}
    problems = [
        f"vertical model {model!r}: no impression is of domain {', '.join(map(repr, missing))}"
        for model, missing in unknown.items()
        if missing
    ]
    if problems:
        names = sorted(known)
        others = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise ConfigError(
            f"{'; '.join(problems)}; the log's domains are {', '.join(names[:NAMES_SHOWN])}{others}: correct `domains` "
            "of the vertical model"
        )
