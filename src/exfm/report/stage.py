"""The stage that tells what a run has found."""

from collections.abc import Mapping, Sequence
from typing import Any

from exfm.artifact.manifest import json_bytes
from exfm.artifact.storage import Ref, join, write_file
from exfm.report.html import render_html
from exfm.report.outputs import read_outputs
from exfm.report.summary import Summary
from exfm.serving.rehearsal import Rehearsal

REPORT, SUMMARY, QUERY = "report.html", "summary.json", "query.json"
"""The files below a run's root; the query is what the rehearsal asked: a request body for its model."""


def make_report(
    *,
    root: str,
    name: str,
    foundation: Ref,
    verticals: Sequence[Ref],
    bundles: Sequence[Ref],
    registrations: Sequence[Mapping[str, Any]],
    rehearsal: Mapping[str, Any],
) -> Summary:
    """Write a run's report, summary and query below its root; return the summary.

    Nothing is written before all is known; each file appears whole.

    Raises: ConfigError if the rehearsal is not one; StorageError if an output is missing, was written again since, or
    is of another run; DataError if models do not agree on the examples.
    """
    rehearsed = Rehearsal.parse(rehearsal, source="rehearsal")
    outputs = read_outputs(foundation=foundation, verticals=verticals, bundles=bundles)
    summary = Summary.of(outputs, name=name, registrations=registrations, rehearsal=rehearsed)
    files = {
        SUMMARY: json_bytes(summary.to_dict()),
        QUERY: json_bytes(rehearsed.request),
        REPORT: render_html(summary).encode(),
    }
    for name_of_file, content in files.items():
        write_file(join(root, name_of_file), content)
    return summary
