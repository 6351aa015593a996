"""What a run's tables have is told before models learn: domains that are not there, and windows to share."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from exfm.das.stages import ingest, join, label
from exfm.errors import ConfigError
from exfm_components.data_augmentation import das_of, require_known_domains, shares_of
from exfm_components.run_config import RunConfig

SCHEMA = {
    "impression_key": "id",
    "event_time": {"column": "time"},
    "domain": "domain",
    "sparse": [{"name": "item", "net": "item", "table": "item"}],
    "tables": [{"name": "item", "rows": 8, "dim": 4}],
    "labels": [{"name": "click", "feedback": "click", "attribution_window": 100}],
}


def run_of(folder: Path, shown: list[str], **domains: list[str]) -> RunConfig:
    """Return a run with an impression of each domain shown, a window each, and vertical models by their domains."""
    rows = {"id": range(len(shown)), "time": range(0, 10 * len(shown), 10), "domain": shown, "item": 1}
    pl.DataFrame(rows).write_parquet(folder / "shown.parquet")
    pl.DataFrame({"id": [0], "time": [1], "kind": ["click"]}).write_parquet(folder / "said.parquet")
    models: list[dict[str, Any]] = [{"name": name, "domains": of_model} for name, of_model in domains.items()]
    settings = {
        "name": "run", "root": str(folder / "root"), "feature_schema": SCHEMA, "window_length": 10,
        "source": {
            "kind": "log", "impressions": str(folder / "shown.parquet"), "feedback": str(folder / "said.parquet"),
        },
        "foundation_models": [{"name": "fm"}], "vertical_models": models,
    }  # fmt: skip
    run = RunConfig.parse(settings, source="test")
    list(ingest(das_of(run), run.source))
    return run


def test_each_model_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["feed", "search", "feed"], one=["feed", "serch"], two=["video"], all=[])
    with pytest.raises(ConfigError) as caught:
        require_known_domains(run)
    assert str(caught.value) == (
        "vertical model 'one': no impression is of domain 'serch'; vertical model 'two': no impression is of domain "
        "'video'; the log's domains are feed, search: correct `domains` of the vertical model"
    )


def test_domains_of_the_newest_and_of_the_oldest_window_are_there(tmp_path: Path) -> None:
    require_known_domains(run_of(tmp_path, ["feed", "mail", "search"], one=["feed", "search"], two=["search"], all=[]))


def test_of_many_domains_a_message_names_some(tmp_path: Path) -> None:
    run = run_of(tmp_path, [str(number) for number in range(100)], one=["feed"])
    with pytest.raises(ConfigError, match=r"the log's domains are 0, 1, 10, .* and 80 more: correct `domains`"):
        require_known_domains(run)


def test_what_is_labelled_and_not_joined_is_shared_too(tmp_path: Path) -> None:
    """A run that was stopped after its labels goes on with as many pods."""
    run = run_of(tmp_path, ["feed"] * 40, one=["feed"])
    run = run.model_copy(update={"platform": run.platform.model_copy(update={"backfill_pods": 3})})
    assert [str(share) for share in shares_of(run)] == ["1/3", "2/3", "3/3"]
    assert list(label(das_of(run)))
    assert len(shares_of(run)) == 3
    list(join(das_of(run), []))
    assert shares_of(run) == []
