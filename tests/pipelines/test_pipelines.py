"""What pipelines are made of."""

import shutil
from pathlib import Path

import pytest
import yaml

from exfm.environment import COMPUTE_ENVIRONMENT
from exfm.errors import ConfigError, DataError, PlanError, SchemaError, ServingError, StorageError
from exfm.events.schemas import MOVIELENS
from exfm.events.sources import load
from exfm.planning.counted import Counted
from exfm.planning.statistics import statistics_of_schema
from exfm.schema import Schema
from exfm_components.progress import PREFIX, Progress, parse, running
from exfm_pipelines.compile import compile_pipelines
from exfm_pipelines.local import run_locally
from exfm_pipelines.run_config import read_run_config

pytestmark = pytest.mark.slow

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
    [file] = compile_pipelines(tmp_path, max_parallel=8)
    spec, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    tasks = spec["root"]["dag"]["tasks"]
    before_the_loop = {"ingest", "make-labels", "train-foundation", "make-pseudo-labels", "join-examples"}
    assert set(tasks) == before_the_loop | {"for-loop-1", "register", "ask", "report", "condition-2"}
    assert tasks["for-loop-1"]["iteratorPolicy"] == {"parallelismLimit": 8}
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["foundation"]["parameterType"] == "STRUCT"
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])
        assert {item["name"] for item in executor["container"]["env"]} == COMPUTE_ENVIRONMENT.keys()
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        [endpoints], [credentials] = executor["configMapAsEnv"], executor["secretAsEnv"]
        assert endpoints["optional"]
        assert credentials["optional"]
        assert {item["envVar"] for item in credentials["keyToEnv"]} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_no_step_is_cached(tmp_path: Path) -> None:
    [file] = compile_pipelines(tmp_path, max_parallel=8)
    spec = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = [
        task
        for dag in dags
        for task in dag["tasks"].values()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    ]
    assert len(tasks) == 11
    assert not [task for task in tasks if task.get("cachingOptions", {}).get("enableCache")]


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
    with running("label") as stage:
        stage.window(3)
        stage.done('with "quotes" and ✓')
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(PREFIX) for line in lines)
    assert [parse("    " + line) for line in lines] == [
        Progress(event="started", stage="label"),
        Progress(event="under way", stage="label", text="window 3"),
        Progress(event="done", stage="label", text='with "quotes" and ✓'),
    ]


def test_a_failure_is_said_with_all_its_lines_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServingError), running("ask"):
        raise ServingError("the ranker ended; its last lines:\n  first\n  second")
    failed = parse(capsys.readouterr().out.splitlines()[-1])
    assert failed == Progress("failed", "ask", "the ranker ended; its last lines:\n  first\n  second", exit_code=3)


def test_a_line_without_progress_is_not_progress() -> None:
    assert parse("Epoch 1") is None


def test_what_would_fail_late_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untaught = RUN + "foundation: {tasks: [like]}\n"
    with pytest.raises(ConfigError, match="'one' has task love, which foundation model 'fm' does not teach"):
        read_run_config(write_run(tmp_path, untaught)).arguments()
    many = RUN + "bundle: {sharding: {num_shards: 9}}\n"
    with pytest.raises(PlanError, match="9 shards for 5 tables"):
        read_run_config(write_run(tmp_path, many)).arguments()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="root s3://bucket/run is remote; set MLFLOW_TRACKING_URI"):
        read_run_config(write_run(tmp_path, RUN), root="s3://bucket/run").arguments()


def test_a_plan_that_a_bundle_is_to_take_starts_at_the_file_and_is_checked_before_anything_runs(tmp_path: Path) -> None:
    named = RUN + "bundle: {plan: 'plans/{model}.json', costs: s3://bucket/costs.yaml}\n"
    config = read_run_config(write_run(tmp_path, named))
    assert config.bundle.plan == str(tmp_path / "plans/{model}.json")
    assert config.bundle.costs == "s3://bucket/costs.yaml"
    with pytest.raises(StorageError, match=r"plans/one\.json"):
        config.arguments()


def test_statistics_that_a_bundle_is_planned_with_are_read_before_anything_runs(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN + "bundle: {table_statistics: 'counted/{model}'}\n"))
    with pytest.raises(StorageError, match=r"counted/one/statistics\.json"):
        config.arguments()
    counted = statistics_of_schema(Schema.read(MOVIELENS), candidates_mean=100)
    Counted(counted, {}).write(str(tmp_path / "counted/one"))
    assert config.arguments()["bundle"]["table_statistics"] == str(tmp_path / "counted/{model}")
    first, *others = counted.tables
    grown = first.model_copy(update={"rows": first.rows + 1})
    Counted(counted.model_copy(update={"tables": (grown, *others)}), {}).write(str(tmp_path / "counted/one"))
    with pytest.raises(PlanError, match=f"{first.name!r} has {first.rows} rows .* counted with {first.rows + 1}"):
        config.arguments()


def test_a_root_that_nothing_can_be_written_to_is_one_line(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN))
    (tmp_path / "out" / "pipeline.log").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"out/pipeline\.log: cannot be written \(Is a directory\); let this user"):
        run_locally(config)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match=r"out/.*Not a directory.*; check the path, the rights"):
        run_locally(config)


def test_a_logs_remote_paths_stay_and_its_local_ones_start_at_the_file(tmp_path: Path) -> None:
    source = "{kind: log, impressions: s3://bucket/impressions/*.parquet, feedback: feedback.parquet}"
    config = read_run_config(write_run(tmp_path, RUN.replace("{kind: movielens, folder: data}", source)))
    assert config.source.to_dict()["impressions"] == "s3://bucket/impressions/*.parquet"
    assert config.source.to_dict()["feedback"] == str(tmp_path / "feedback.parquet")


def test_a_resolved_source_can_be_loaded(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN))
    with pytest.raises(DataError, match=str(tmp_path / "data")):
        load(config.source, schema=Schema.read(MOVIELENS))
