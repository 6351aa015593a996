"""What pipelines are made of."""

from pathlib import Path

import pytest
import yaml

from exfm.errors import ConfigError, SchemaError
from exfm.events.schemas import MOVIELENS
from exfm_components.progress import PREFIX, Progress, parse, say
from exfm_pipelines.compile import compile_pipelines
from exfm_pipelines.run_config import read_run_config

REPOSITORY = Path(__file__).parents[2]


def write_run(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


RUN = f"""
name: test
root: out
feature_schema: {MOVIELENS}
source: {{kind: movielens, folder: data}}
window_length: 100
vertical_models:
  - {{name: one}}
"""


def test_the_pipeline_compiles_with_a_step_for_each_stage(tmp_path: Path) -> None:
    [file] = compile_pipelines(tmp_path)
    spec = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    tasks = spec["root"]["dag"]["tasks"]
    before_the_loop = {"ingest", "make-labels", "train-foundation", "make-pseudo-labels", "join-examples"}
    assert set(tasks) == before_the_loop | {"for-loop-1", "register", "ask", "report"}
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["foundation"]["parameterType"] == "STRUCT"
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_paths_of_a_run_start_at_its_file(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN))
    assert config.root == str(tmp_path / "out")
    assert config.source.to_dict()["folder"] == str(tmp_path / "data")


def test_a_root_on_the_command_line_takes_the_files_place(tmp_path: Path) -> None:
    assert read_run_config(write_run(tmp_path, RUN), root="s3://bucket/run").root == "s3://bucket/run"


def test_the_examples_runs_are_valid() -> None:
    for example in ("movielens", "synthetic"):
        arguments = read_run_config(REPOSITORY / "examples" / example / "run.yaml").arguments()
        assert arguments["vertical_models"]


def test_the_demos_foundation_model_has_ten_times_a_vertical_models_parameters() -> None:
    from exfm.models.ranking import RankingModel  # slow to import, and no other test here needs it
    from exfm.schema import Schema

    config = read_run_config(REPOSITORY / "examples/movielens/run.yaml")
    schema = Schema.read(Path(config.feature_schema))
    teacher = RankingModel(schema.select(), config.foundation.model).num_parameters()
    for model in config.vertical_models:
        assert teacher >= 10 * RankingModel(schema.select(tasks=model.tasks), model.model).num_parameters()


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        ("window_length: 100", "window_length: 0", "window_length: Input should be greater than or equal to 1"),
        ("name: test", "nam: test", "nam: Extra inputs are not permitted"),
        ("kind: movielens", "kind: netflix", "source: Input tag 'netflix' found using 'kind'"),
        ("  - {name: one}", "  - {name: One}", "vertical_models.0.name: String should match pattern"),
        ("  - {name: one}", "  - {name: one}\n  - {name: one}", "vertical model one is named more than once"),
    ],
)
def test_a_wrong_key_of_a_run_is_named(tmp_path: Path, line: str, changed: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_run_config(write_run(tmp_path, RUN.replace(line, changed)))
    assert message in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_a_model_that_asks_for_an_unknown_feature_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN.replace("{name: one}", "{name: one, features: [shoe_size]}")))
    with pytest.raises(SchemaError, match="unknown feature 'shoe_size'; the schema has age, release_year"):
        config.arguments()


def test_progress_is_read_back_from_an_indented_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("done", "label", 'with "quotes" and ✓')
    line = capsys.readouterr().out
    assert line.startswith(PREFIX)
    assert parse("    " + line) == Progress(event="done", stage="label", text='with "quotes" and ✓')


def test_a_line_without_progress_is_not_progress() -> None:
    assert parse("Epoch 1") is None
