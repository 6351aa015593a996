"""Serve the first bundle by its shards and ranker, and send it its golden query."""

from exfm_components.stages.evaluation.smoke_test.component import smoke_test

__all__ = ["smoke_test"]
