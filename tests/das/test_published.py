"""A foundation model that another run trained: which ones are taken, and by which name they teach."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from growing_log import SCHEMA
from small_log import read, run, small_das
from taught_log import FOUNDATION, write_week

from exfm.artifact.storage import MANIFEST, Ref
from exfm.errors import ConfigError, StorageError
from exfm.foundation.published import published_model
from exfm.schema import Schema

pytestmark = pytest.mark.slow


def schema_with(**changes: Any) -> Schema:
    return Schema.parse(SCHEMA.to_dict() | changes, source="test")


def at(uri: str, **changes: Any) -> Any:
    """Return the settings of a foundation model that is published at a URI."""
    return FOUNDATION.model_copy(update={"published": uri} | changes)


def test_what_is_published_is_the_model_and_nothing_is_none(tmp_path: Path, foundation: Ref) -> None:
    assert published_model(at(foundation.uri), SCHEMA) == foundation
    assert published_model(at(str(tmp_path)), SCHEMA) is None


def test_a_model_that_reads_what_the_log_lacks_is_refused(foundation: Ref) -> None:
    other = schema_with(sparse=[SCHEMA.sparse[0].to_dict() | {"name": "domain_item"}])
    with pytest.raises(ConfigError, match=r"foundation model 'fm', published at .* reads item, which the log's schema"):
        published_model(at(foundation.uri), other)


def test_a_model_that_does_not_teach_a_task_is_refused(foundation: Ref) -> None:
    more = schema_with(labels=[*(label.to_dict() for label in SCHEMA.labels), {"name": "buy", "feedback": "buy",
                               "attribution_window": 60}])  # fmt: skip
    with pytest.raises(ConfigError, match="does not teach buy; set `tasks` to those that it teaches: click, stay"):
        published_model(at(foundation.uri), more)
    assert published_model(at(foundation.uri, tasks=("stay",)), more) == foundation


def test_a_model_of_another_kind_of_time_is_refused(foundation: Ref) -> None:
    steps = schema_with(event_time={"column": "time", "kind": "ordinal"})
    with pytest.raises(ConfigError, match="knows absolute time, and the log has ordinal time"):
        published_model(at(foundation.uri), steps)


def test_a_vertical_model_is_refused(tmp_path: Path, foundation: Ref) -> None:
    manifest = json.loads((Path(foundation.uri) / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | {"kind": "vertical", "name": "shop"}))
    with pytest.raises(ConfigError, match="is vertical model 'shop'; name the folder models/NAME of a foundation mod"):
        published_model(at(str(tmp_path)), SCHEMA)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(StorageError, match=f"{tmp_path}.* no stage wrote this: name another folder"):
        published_model(at(str(tmp_path)), SCHEMA)


def test_its_pseudo_labels_have_its_name_in_this_run_and_the_logs_tasks(tmp_path: Path, foundation: Ref) -> None:
    das = small_das(tmp_path / "root")
    das = replace(das, schema=das.schema.select(tasks=("stay",)))
    run(das, write_week(tmp_path / "log"), until=9, big=foundation)
    labels = read(das, "pseudo_labels")
    assert set(labels["fm"]) == {"big"}
    assert "click" not in labels.columns
    assert labels["stay"].drop_nulls().len()
