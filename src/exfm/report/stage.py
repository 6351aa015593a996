"""The stage that tells what a run has found."""

from collections.abc import Mapping, Sequence
from typing import Any

from exfm.artifact.manifest import json_bytes
from exfm.artifact.storage import Ref, write_file
from exfm.report.html import render_html
from exfm.report.outputs import read_outputs
from exfm.report.summary import Summary
from exfm.serving.rehearsal import Rehearsal


def make_report(
    *,
    report: str,
    summary: str,
    query: str,
    name: str,
    foundation: Ref,
    verticals: Sequence[Ref],
    bundles: Sequence[Ref],
    registrations: Sequence[Mapping[str, Any]],
    rehearsal: Mapping[str, Any],
) -> Summary:
    """Write a run's report, summary and query (what the rehearsal asked) to these URIs; return the summary.

    Nothing is written before all is known; each file appears whole.

    Raises: ConfigError if the rehearsal is not one; StorageError if an output is missing, was written again since, or
    is of another run; DataError if models do not agree on the examples.
    """
    rehearsed = Rehearsal.parse(rehearsal, source="rehearsal")
    outputs = read_outputs(foundation=foundation, verticals=verticals, bundles=bundles)
    found = Summary.of(outputs, name=name, registrations=registrations, rehearsal=rehearsed)
    page = render_html(found)
    write_file(summary, json_bytes(found.to_dict()))
    write_file(query, json_bytes(rehearsed.request))
    write_file(report, page.encode())
    return found
