"""Take the source files that have arrived into the tables of the log."""

from exfm_components.stages.data_processing.ingest.component import ingest

__all__ = ["ingest"]
