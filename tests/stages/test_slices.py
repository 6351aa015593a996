"""What a comparison refuses of a vertical model's slice of the examples."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from stream import Stream

from exfm.artifact.storage import Ref
from exfm.das.advance import teach
from exfm.das.stages import ingest, join, label
from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError
from exfm.evaluation.slices import vertical_data
from exfm.events.examples import ExampleTable
from exfm.events.schemas import SYNTHETIC
from exfm.schema import Schema
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow


@pytest.fixture
def teacher(foundation: Ref) -> ModelManifest:
    return ModelManifest.read(Path(foundation.uri))


def test_a_slice_has_the_models_domains_tasks_and_teachers(
    examples: ExampleTable, vertical_config: VerticalConfig, teacher: ModelManifest
) -> None:
    data = vertical_data(vertical_config, examples, teachers={"fm": teacher})
    assert (data.domains, data.schema.tasks(), data.teachers) == (("search",), ("click",), ("fm",))
    window = data.read(data.windows[4])
    assert window.domains.unique().to_list() == ["search"]
    assert list(window.pseudo) == ["fm"]


def test_a_task_that_a_teacher_lacks_is_refused(
    examples: ExampleTable, vertical_config: VerticalConfig, teacher: ModelManifest
) -> None:
    two_tasks = replace(examples, schema=Schema.read(SYNTHETIC))
    config = vertical_config.model_copy(update={"tasks": ("click", "conversion")})
    with pytest.raises(
        ConfigError, match=r"'search-ads': foundation model 'fm' does not teach task conversion; add it"
    ):
        vertical_data(config, two_tasks, teachers={"fm": teacher})


def test_a_teacher_that_was_never_ready_is_refused(
    stream: Stream, vertical_config: VerticalConfig, teacher: ModelManifest, tmp_path: Path
) -> None:
    without = replace(stream, root=tmp_path)
    das = without.das
    for _ in chain(ingest(das, without.source), label(das), teach(das, "late", None), join(das, ["late"])):
        pass
    examples = without.examples()
    assert "pseudo_age.late" in examples.columns
    with pytest.raises(ConfigError, match=r"'search-ads': no example has a pseudo-label of foundation model 'late'"):
        vertical_data(vertical_config, examples, teachers={"late": teacher})
