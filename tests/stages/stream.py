"""A log whose rows are ingested and labelled, and what a run does with it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exfm.artifact.manifest import write_json
from exfm.artifact.storage import MANIFEST, Ref, ref_to
from exfm.das.advance import advance, learn
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.das.log_tables import Das
from exfm.das.publishing import publish
from exfm.distill.config import VerticalConfig
from exfm.distill.line import vertical_line
from exfm.events.examples import ExampleTable
from exfm.events.synthetic import SyntheticSource
from exfm.foundation.config import FoundationConfig
from exfm.foundation.line import foundation_line
from exfm.schema import Schema
from exfm.training.manifest import ModelManifest


@dataclass(frozen=True)
class Stream:
    """A synthetic log below a root of its own."""

    root: Path
    schema: Schema
    source: SyntheticSource
    window_length: int

    @property
    def das(self) -> Das:
        """Return the data augmentation system."""
        return Das(root=str(self.root), schema=self.schema, window_length=self.window_length)

    def examples(self) -> ExampleTable:
        """Return the examples that are there by now."""
        return example_table(LogState.of(self.das))

    def run(self, fms: Sequence[FoundationConfig], vms: Sequence[VerticalConfig] = ()) -> tuple[list[Ref], list[Ref]]:
        """Do whatever is due for these models, of which the first ones teach all others; return all of them."""
        das, schema = self.das, self.schema
        teachers = [foundation_line(config, schema) for config in fms]
        names = [teacher.name for teacher in teachers]
        verticals = [vertical_line(config, schema, teachers=config.teachers or names) for config in vms]
        models = {teacher.name: teacher for teacher in teachers}
        for _ in advance(das, self.source, foundation_models=models, vertical_models=verticals):
            pass
        return [publish(das, line) for line in teachers], [publish(das, line) for line in verticals]

    def learn(self, config: VerticalConfig, *, teachers: Sequence[str]) -> Ref:
        """Have one more vertical model learn the examples that are there, and return it; no other model changes."""
        line = vertical_line(config, self.schema, teachers=teachers)
        for _ in learn(self.das, line):
            pass
        return publish(self.das, line)


def copied(vertical: Ref, folder: Path, **changes: object) -> Ref:
    """Return a vertical model with another manifest, which lies in another folder."""
    shutil.copytree(vertical.uri, folder)
    write_json(folder / MANIFEST, ModelManifest.read(folder).model_copy(update=changes).to_dict())
    return ref_to(str(folder))
