"""The stage that reports the results of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from exfm.artifact.manifest import json_bytes
from exfm.artifact.storage import Ref
from exfm.artifact.stores import write_file
from exfm.das.log_tables import Das
from exfm.evaluation.comparison import Comparison
from exfm.events.sources import Source, about
from exfm.report.html import plots_of, render_html
from exfm.report.outputs import read_outputs
from exfm.report.summary import Summary
from exfm.serving.smoke_test import SmokeTest


@dataclass(frozen=True)
class Report:
    """What a report is of."""

    summary: Summary
    plots: Mapping[str, bytes]
    """Its plots as SVG, by name."""


def make_report(
    *,
    report: str,
    summary: str,
    query: str,
    name: str,
    das: Das,
    source: Source,
    foundations: Sequence[Ref],
    published: Mapping[str, Ref] = MappingProxyType({}),
    verticals: Sequence[Ref],
    bundles: Sequence[Ref],
    registrations: Sequence[Mapping[str, Any]],
    smoke_test: Mapping[str, Any],
    comparison: str = "",
) -> Report:
    """Write a run's report, summary and query (the smoke test's request) to these URIs; return what they are of.

    `foundations` are those that the run trains; `published` are those that other runs train, by their names here.
    `comparison` is the URI of a comparison of methods; empty: there is none. If an input is wrong, nothing is written.
    Each file appears whole.

    Raises: ConfigError if `smoke_test` or `comparison` is not what its stage wrote; StorageError if an output is
    missing, was written again since, or is of another run; DataError if two models have predicted no example in
    common, or the source is malformed.
    """
    tested = SmokeTest.parse(smoke_test, source="smoke test")
    outputs = read_outputs(
        das,
        about(source, das.schema),
        foundations=foundations,
        published=published,
        verticals=verticals,
        bundles=bundles,
    )
    compared = Comparison.read(comparison) if comparison else None
    found = Summary.of(outputs, name=name, registrations=registrations, comparison=compared, smoke_test=tested)
    plots = plots_of(found)
    page = render_html(found, plots)
    write_file(summary, json_bytes(found.to_dict()))
    write_file(query, json_bytes(tested.request))
    write_file(report, page.encode())
    return Report(found, plots)
