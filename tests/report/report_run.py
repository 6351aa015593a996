"""A finished run, and the report's arguments for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exfm.artifact.storage import Ref
from exfm.das.log_tables import Das
from exfm.events.synthetic import SyntheticSource
from exfm.report.stage import make_report
from exfm.report.summary import Summary
from exfm.training.manifest import ModelManifest

WARMUP_WINDOWS = 2
"""Of vertical model `search`."""


FILES = {"report": "report.html", "summary": "summary.json", "query": "query.json"}


@dataclass(frozen=True)
class Run:
    """What the stages before the report made, and the report's arguments."""

    das: Das
    source: SyntheticSource
    foundations: tuple[Ref, ...]
    verticals: tuple[Ref, ...]
    comparison: str
    bundles: tuple[Ref, ...]
    registrations: tuple[Mapping[str, Any], ...]
    smoke_test: Mapping[str, Any]

    @property
    def root(self) -> Path:
        """Return the root of the run."""
        return Path(self.das.root)

    def model(self, name: str) -> ModelManifest:
        """Return a model's manifest."""
        return ModelManifest.read(self.root / "models" / name)

    def report(self, root: Path, **changes: Any) -> Summary:
        """Make a report below another root, with some arguments changed."""
        arguments = {
            "das": self.das,
            "source": self.source,
            "foundations": self.foundations,
            "verticals": self.verticals,
            "comparison": self.comparison,
            "bundles": self.bundles,
            "registrations": self.registrations,
            "smoke_test": self.smoke_test,
        }
        files = {name: str(root / file) for name, file in FILES.items()}
        return make_report(name="tiny", **files, **(arguments | changes)).summary
