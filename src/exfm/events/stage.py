"""The stage that makes an event log."""

from exfm.artifact.storage import writing
from exfm.events.log import EventLogManifest, write_event_log
from exfm.events.sources import Source, load
from exfm.schema import Schema


def ingest(source: Source, *, schema: Schema, window_length: int, out: str) -> EventLogManifest:
    """Write a source's events as an event log; return its manifest.

    `window_length` is in the schema's time unit.

    Raises: StorageError if `out` cannot be written, or the source's store does not answer; DataError if the source is
    missing, or its rows break a rule of the schema.
    """
    with writing(out) as folder:
        log = load(source, schema=schema)
        return write_event_log(log, schema=schema, window_length=window_length, folder=folder)
