from pathlib import Path

import pytest

from exfm.config import Config
from exfm.errors import ConfigError
from exfm.events.movielens import MovieLensSource
from exfm.events.parquet import LogSource
from exfm.events.schemas import SYNTHETIC
from exfm.events.sources import Source, about, load, resolve
from exfm.events.synthetic import SyntheticSource
from exfm.schema import Schema


class Run(Config):
    source: Source


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"kind": "movielens", "folder": "ml"}, MovieLensSource(folder="ml")),
        ({"kind": "synthetic", "seed": 3}, SyntheticSource(seed=3)),
        ({"kind": "log", "impressions": "i", "feedback": "f"}, LogSource(impressions="i", feedback="f")),
    ],
)
def test_kind_chooses_the_source(data: dict[str, object], expected: Source) -> None:
    run = Run.parse({"source": data}, source="run.yaml")
    assert run.source == expected
    assert Run.parse(run.to_dict(), source="run.yaml") == run


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: source: .*'movielens', 'synthetic', 'log'"):
        Run.parse({"source": {"kind": "criteo"}}, source="run.yaml")


def test_a_source_loads_by_its_config() -> None:
    assert load(SyntheticSource(num_impressions=1_000)).impressions.height == 1_000


def test_a_data_set_is_generated_once() -> None:
    source = SyntheticSource(num_impressions=1_000, num_users=50, num_ads=50)
    assert load(source) is load(source.model_copy())


def test_what_people_should_know_of_a_data_set_is_its_own() -> None:
    source = SyntheticSource(num_impressions=1_000, num_users=50, num_ads=50)
    told = about(source, Schema.read(SYNTHETIC))
    assert (told.source, told.notes) == (load(source).source, load(source).notes)


def test_relative_paths_start_at_the_config_files_folder_and_urls_stay(tmp_path: Path) -> None:
    movielens = resolve(MovieLensSource(folder="ml"), base=tmp_path)
    assert movielens == MovieLensSource(folder=str(tmp_path / "ml"))
    assert resolve(MovieLensSource(folder="s3://bucket/ml/"), base=tmp_path).folder == "s3://bucket/ml/"
    log = LogSource(impressions="i/*.parquet", feedback="s3://bucket/f", names={"item": "names.parquet"})
    assert resolve(log, base=tmp_path) == LogSource(
        impressions=str(tmp_path / "i/*.parquet"),
        feedback="s3://bucket/f",
        names={"item": str(tmp_path / "names.parquet")},
    )
