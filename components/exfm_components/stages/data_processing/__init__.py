"""Components that make examples: check of the run, ingest, labels, scores, join."""

from exfm_components.stages.data_processing.check import check
from exfm_components.stages.data_processing.ingest import ingest
from exfm_components.stages.data_processing.join_examples import join_examples
from exfm_components.stages.data_processing.make_labels import make_labels
from exfm_components.stages.data_processing.score import score

__all__ = ["check", "ingest", "join_examples", "make_labels", "score"]
