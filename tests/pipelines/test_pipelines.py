"""What pipelines are made of."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from exfm.artifact.manifest import json_bytes
from exfm.artifact.plan import ShardPlan, TableSlice
from exfm.environment import COMPUTE_ENVIRONMENT
from exfm.errors import ConfigError, DataError, PlanError, SchemaError, ServingError, StorageError
from exfm.events.schemas import MOVIELENS
from exfm.events.sources import load
from exfm.planning.counted import Counted
from exfm.planning.statistics import statistics_of_schema
from exfm.schema import Schema
from exfm_components.platform import StepResources
from exfm_components.progress import Progress, parse, running
from exfm_components.run_config import RunConfig, read_run_config
from exfm_pipelines.compile import compile_objects, compile_pipeline
from exfm_pipelines.local import run_locally

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


STEPS = (
    "check", "ingest", "label", "train-fm", "join", "compare", "train-vm", "bundle", "judge", "register", "smoke-test",
    "report", "deploy",
)  # fmt: skip

REMOTE = RUN.replace("root: out", "root: s3://bucket/run").replace("folder: data", "folder: s3://bucket/data")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specifications of a pipeline and of its platform, as Kubeflow reads them."""
    folder = tmp_path_factory.mktemp("compiled")
    settings = """
compare: [label, auto]
platform:
  steps: {train-fm: {cpu_request_m: 4000, cpu_limit_m: 8000, memory_mib: 16384}}
  max_parallel: 3
  retries: 1
  backoff_s: 7
  timeout_s: 3600
  node_selector: {pool: training}
  tolerations: [{key: spot, operator: Exists, effect: NoSchedule}]
  image_pull_secrets: [registry]
  config_map: endpoints
  secret: keys
"""
    file = compile_pipeline(read_run_config(write_run(folder, REMOTE + settings)), folder, image="repo/image@sha256:0")
    spec, of_platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return spec, of_platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks_of(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every task that runs a container, by its name on the screen."""
    return {
        task["taskInfo"]["name"]: task
        for dag in dags_of(spec).values()
        for task in dag["tasks"].values()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    }


def dags_of(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    inner = {name: component["dag"] for name, component in spec["components"].items() if "dag" in component}
    return {"root": spec["root"]["dag"], **inner}


def executor_of(spec: dict[str, Any], step: str) -> str:
    label: str = spec["components"][tasks_of(spec)[step]["componentRef"]["name"]]["executorLabel"]
    return label


def test_start_suffices(compiled: Any) -> None:
    parameters = compiled[0]["root"]["inputDefinitions"]["parameters"]
    assert {name: one["parameterType"] for name, one in parameters.items()} == {
        "run": "STRUCT",
        "root": "STRING",
        "deploy": "BOOLEAN",
        "until": "STRING",
    }
    assert parameters["until"]["defaultValue"] == ""
    assert parameters["root"]["defaultValue"] == "s3://bucket/run"
    assert parameters["deploy"]["defaultValue"] is False
    baked = RunConfig.parse(parameters["run"]["defaultValue"], source="run")
    assert baked.vertical_models[0].name == "one"
    assert baked.feature_schema == Schema.read(MOVIELENS)


def test_every_step_and_group_is_named_for_what_it_does(compiled: Any) -> None:
    spec, _ = compiled
    assert set(tasks_of(spec)) == set(STEPS)
    groups = {
        task["taskInfo"]["name"]
        for dag in dags_of(spec).values()
        for task in dag["tasks"].values()
        if "dag" in spec["components"][task["componentRef"]["name"]]
    }
    assert groups == {"each foundation model", "each vertical model", "if deploy"}


def test_every_parameter_has_the_type_that_its_consumer_declares(compiled: Any) -> None:
    """Kubeflow's driver refuses what its compiler and local runner let pass: a loop's item of another type."""
    spec, _ = compiled
    components = spec["components"]
    compared = 0
    for name, dag in dags_of(spec).items():
        own = spec["root"] if name == "root" else components[name]
        inputs = own.get("inputDefinitions", {}).get("parameters", {})
        for task in dag["tasks"].values():
            wanted = components[task["componentRef"]["name"]].get("inputDefinitions", {}).get("parameters", {})
            for parameter, source in task.get("inputs", {}).get("parameters", {}).items():
                if "componentInputParameter" in source:
                    given = inputs[source["componentInputParameter"]]["parameterType"]
                elif "taskOutputParameter" in source:
                    output = source["taskOutputParameter"]
                    producer = components[dag["tasks"][output["producerTask"]]["componentRef"]["name"]]
                    given = producer["outputDefinitions"]["parameters"][output["outputParameterKey"]]["parameterType"]
                else:
                    raise AssertionError(f"a constant for {parameter}: its type is to be compared as well")
                assert given == wanted[parameter]["parameterType"], f"{name}: {parameter}"
                compared += 1
            if "parameterIterator" in task:
                item = task["parameterIterator"]["itemInput"]
                assert wanted[item]["parameterType"] == "STRUCT", "a model's settings"
    assert compared > 25


def test_a_backfill_is_shared_among_pods_that_the_run_names(tmp_path: Path) -> None:
    published = (
        "foundation_models: [{name: fm, published: s3://bucket/other/models/fm}]\nplatform: {backfill_pods: 3}\n"
    )
    file = compile_pipeline(read_run_config(write_run(tmp_path, REMOTE + published)), tmp_path, image="i")
    spec, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    tasks = tasks_of(spec)
    assert set(tasks) - {*STEPS} == {"label a share", "score a share", "join a share"}
    loops = [task for dag in dags_of(spec).values() for task in dag["tasks"].values() if "parameterIterator" in task]
    limits = [task["iteratorPolicy"]["parallelismLimit"] for task in loops if "share" in task["taskInfo"]["name"]]
    assert limits == [3, 3]
    for step in ("label", "join"):  # what is left when the shares are done, and the reports
        assert any("for-loop" in task for task in tasks[step]["dependentTasks"])
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors.keys() == spec["deploymentSpec"]["executors"].keys()


def test_a_run_without_methods_to_compare_has_no_step_for_them(tmp_path: Path) -> None:
    file = compile_pipeline(read_run_config(write_run(tmp_path, REMOTE)), tmp_path, image="i")
    spec, _ = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert set(tasks_of(spec)) == {*STEPS} - {"compare"}


def test_steps_run_in_the_image_and_with_the_rights_that_the_run_names(compiled: Any) -> None:
    spec, platform = compiled
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) == len(platform) == len(STEPS)
    for step in STEPS:
        label = executor_of(spec, step)
        container = executors[label]["container"]
        assert container["image"] == "repo/image@sha256:0"
        assert "pip install" not in " ".join(container["command"])
        assert {item["name"] for item in container["env"]} == {*COMPUTE_ENVIRONMENT, "EXFM_IMAGE"}
        run_id = {"name": "EXFM_PIPELINE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        assert platform[label]["fieldPathAsEnv"] == [run_id]
        [endpoints], [credentials] = platform[label]["configMapAsEnv"], platform[label]["secretAsEnv"]
        assert (endpoints["configMapName"], credentials["secretName"]) == ("endpoints", "keys")
        assert endpoints["optional"]
        assert credentials["optional"]
        assert {item["envVar"] for item in credentials["keyToEnv"]} == {
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
            "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
        }  # fmt: skip


def test_steps_ask_for_what_the_platform_says(compiled: Any) -> None:
    spec, platform = compiled
    executors = spec["deploymentSpec"]["executors"]
    wanted = executors[executor_of(spec, "train-fm")]["container"]["resources"]
    assert (wanted["resourceCpuRequest"], wanted["resourceCpuLimit"]) == ("4000m", "8000m")
    assert wanted["resourceMemoryRequest"] == wanted["resourceMemoryLimit"] == "16384Mi"
    default = executors[executor_of(spec, "label")]["container"]["resources"]
    assert default["resourceMemoryLimit"] == f"{StepResources().memory_mib}Mi"
    for step in STEPS:
        of_step = platform[executor_of(spec, step)]
        assert of_step["nodeSelector"]["labels"] == {"pool": "training"}
        assert of_step["tolerations"] == [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
        assert [secret["secretName"] for secret in of_step["imagePullSecret"]] == ["registry"]
        assert of_step["activeDeadlineSeconds"] == ("300" if step == "check" else "3600")
        retry = tasks_of(spec)[step].get("retryPolicy", {})
        assert retry.get("maxRetryCount") == (None if step == "check" else 1)
        assert retry.get("backoffDuration") == (None if step == "check" else "7s")


def resources_of_training(folder: Path, models: str, memory_mib: int) -> dict[str, str]:
    """Return the resources of step `train-fm` of a run with these foundation models."""
    steps = f"{{train-fm: {{cpu_request_m: 4000, cpu_limit_m: 8000, memory_mib: {memory_mib}}}}}"
    text = f"{REMOTE}foundation_models: [{models}]\nplatform: {{steps: {steps}}}"
    file = compile_pipeline(read_run_config(write_run(folder, text)), folder, image="repo/image@sha256:0")
    spec, _ = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    found: dict[str, str] = spec["deploymentSpec"]["executors"][executor_of(spec, "train-fm")]["container"]["resources"]
    return found


def test_a_step_that_only_follows_train_jobs_requests_little_of_its_limits(tmp_path: Path) -> None:
    models = "{name: big, training: {nodes: 2}}, {name: drawn, training: {gpu: true}}"
    found = resources_of_training(tmp_path, models, memory_mib=16_384)
    assert (found["resourceCpuRequest"], found["resourceMemoryRequest"]) == ("200m", "1024Mi")
    assert (found["resourceCpuLimit"], found["resourceMemoryLimit"]) == ("8000m", "16384Mi")
    assert resources_of_training(tmp_path, models, memory_mib=512)["resourceMemoryRequest"] == "512Mi"


@pytest.mark.parametrize("other", ["{name: small}", "{name: there, published: s3://other/models/fm}"])
def test_a_step_that_trains_or_scores_one_of_the_models_itself_requests_its_limits(other: str, tmp_path: Path) -> None:
    found = resources_of_training(tmp_path, f"{{name: big, training: {{nodes: 2}}}}, {other}", memory_mib=16_384)
    assert (found["resourceCpuRequest"], found["resourceMemoryRequest"]) == ("4000m", "16384Mi")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RUN + "platform: {steps: {ask: {memory_mib: 4096}}}", "ask is no longer a step: its name is smoke-test now"),
        (
            RUN.replace("name: one", "name: one, compare_label_only: false"),
            r"compare_label_only is no longer a setting: set the run's `compare`, such as `compare: \[label, auto\]`",
        ),
        (RUN + "foundation: {name: fm}", "foundation is no longer a setting: set foundation_models, a list, such as"),
        (RUN + "warm_start: out/fm", "warm_start is no longer a setting: a model goes on from its last state"),
        (
            RUN + "foundation_models: [{name: fm, snapshot_every: 2}]",
            "snapshot_every is no longer a setting: each window that a model learns leaves a state; leave it out",
        ),
        (RUN + "platform: {steps: {pseudo-label: {}}}", "pseudo-label is no longer a step: train-fm scores, too"),
        (RUN + "foundation_models: [{name: one}]", "one is a foundation model and a vertical model"),
    ],
    ids=["a step", "a setting", "foundation", "warm_start", "snapshot_every", "pseudo-label", "a name of two models"],
)
def test_a_renamed_key_is_refused_with_its_new_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_run_config(write_run(tmp_path, text))


def test_nothing_is_cached_and_models_are_trained_so_many_at_a_time(compiled: Any) -> None:
    spec, _ = compiled
    tasks = tasks_of(spec)
    assert not [name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")]
    loops = [task for task in spec["root"]["dag"]["tasks"].values() if "parameterIterator" in task]
    assert [loop["iteratorPolicy"] for loop in loops] == [{"parallelismLimit": 3}] * 2


def test_a_pipeline_is_objects_for_kubectl_too(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, REMOTE))
    file = compile_objects(config, tmp_path, image="repo/image:1", namespace="profile")
    pipeline, version = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert (pipeline["kind"], pipeline["metadata"]["name"]) == ("Pipeline", "exfm-test")
    assert (version["kind"], version["spec"]["pipelineName"]) == ("PipelineVersion", "exfm-test")
    assert pipeline["metadata"]["namespace"] == version["metadata"]["namespace"] == "profile"
    assert "root" in version["spec"]["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]


def test_compiling_needs_no_registry_and_refuses_places_that_pods_do_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert compile_pipeline(read_run_config(write_run(tmp_path, REMOTE)), tmp_path, image="i").is_file()
    with pytest.raises(ConfigError, match=r"pods, which cannot read root /.*/out, source\.folder /.*/data; name s3://"):
        compile_pipeline(read_run_config(write_run(tmp_path, RUN)), tmp_path, image="i")


def test_a_published_teacher_is_named_from_the_runs_folder_or_by_a_url_that_pods_can_read(tmp_path: Path) -> None:
    teacher = REMOTE + "foundation_models: [{published: other/models/fm}]\n"
    with pytest.raises(ConfigError, match=f"cannot read published of 'fm' {tmp_path}/other/models/fm; name s3://"):
        compile_pipeline(read_run_config(write_run(tmp_path, teacher)), tmp_path, image="i")
    remote = teacher.replace("other/", "s3://bucket/other/")
    assert compile_pipeline(read_run_config(write_run(tmp_path, remote)), tmp_path, image="i").is_file()


def test_an_example_is_ready_for_a_cluster(tmp_path: Path) -> None:
    config = read_run_config(REPOSITORY / "examples/movielens/kubeflow.yaml")
    assert compile_pipeline(config, tmp_path, image="i").name == "exfm-movielens.yaml"


def test_paths_of_a_run_start_at_its_file(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN))
    assert config.root == str(tmp_path / "out")
    assert config.source.to_dict()["folder"] == str(tmp_path / "data")


def test_a_root_on_the_command_line_takes_the_files_place(tmp_path: Path) -> None:
    assert read_run_config(write_run(tmp_path, RUN), root="s3://bucket/run").root == "s3://bucket/run"


def test_the_examples_runs_are_valid() -> None:
    runs = ("movielens/run.yaml", "open_bandit/run.yaml", "synthetic/run.yaml", "taobao_x1/run.yaml")
    for run in runs:
        read_run_config(REPOSITORY / "examples" / run).check()


def test_the_demos_foundation_model_has_ten_times_a_vertical_models_parameters() -> None:
    from exfm.models.ranking import RankingModel  # slow to import, and no other test here needs it

    config = read_run_config(REPOSITORY / "examples/movielens/run.yaml")
    schema = config.feature_schema
    [foundation] = config.foundation_models
    teacher = RankingModel(schema.select(), foundation.model).num_parameters()
    for model in config.vertical_models:
        assert teacher >= 10 * RankingModel(schema.select(tasks=model.tasks), model.model).num_parameters()


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        ("window_length: 100", "window_length: 0", "window_length: expected at least 1"),
        ("name: test", "nam: test", "nam: no such setting"),
        (
            "kind: movielens",
            "kind: netflix",
            "source: kind is 'netflix', expected 'movielens', 'synthetic', 'log'",
        ),
        (
            "  - {name: one}",
            "  - {name: One}",
            "vertical_models.0.name: expected a lower-case letter, then such, digits and dashes, no dash",
        ),
        ("  - {name: one}", "  - {name: one}\n  - {name: one}", "vertical model one is named more than once"),
        ("name: test", "name: test\nfoundation_models: [{}, {}]", "foundation model fm is named more than once"),
        (
            "name: test",
            "name: test\ndas: {bounds: {max_drift: {aeg: 0.25}}}",
            "das.bounds.max_drift names aeg, expected the domain's column or features: ",
        ),
        ("name: test", "name: test\nfoundation_models: []", "foundation_models: expected at least 1 of them"),
        (
            "name: test",
            "name: test\ncompare: [kd, ah]",
            "compare: label is missing, which the others are compared with",
        ),
        ("name: test", "name: test\ncompare: [label]", "compare: label alone compares nothing; add another method"),
        ("name: test", "name: test\ncompare: [label, kd, kd]", "compare: kd is there more than once"),
    ],
)
def test_a_wrong_key_of_a_run_is_named(tmp_path: Path, line: str, changed: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_run_config(write_run(tmp_path, RUN.replace(line, changed)))
    assert message in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_a_model_that_asks_for_an_unknown_feature_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN.replace("{name: one}", "{name: one, features: [shoe_size]}")))
    with pytest.raises(SchemaError, match="'one': unknown feature 'shoe_size'; the schema has age, release_year"):
        config.check()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("vertical_models: [{name: one, model: {network: {interaction: dlrm}}}]", "vertical model 'one'"),
        (
            "vertical_models: [{name: one}]\nfoundation_models: [{model: {network: {interaction: deepfm}}}]",
            "foundation model 'fm'",
        ),
    ],
)
def test_tables_that_do_not_suit_an_interaction_are_refused_before_anything_runs(
    tmp_path: Path, settings: str, name: str
) -> None:
    config = read_run_config(write_run(tmp_path, RUN.replace("vertical_models:\n  - {name: one}", settings)))
    config.check()
    written = config.feature_schema.to_dict()
    written["tables"][-1]["dim"] *= 2
    other = config.model_copy(update={"feature_schema": Schema.parse(written, source="x")})
    with pytest.raises(
        ConfigError, match=rf"{name}: table 'genre' has dim 16, table 'user' has dim 8, but interaction"
    ):
        other.check()


def test_progress_is_read_back_from_an_indented_line(capsys: pytest.CaptureFixture[str]) -> None:
    with running("label") as stage:
        stage.walked(3, 12)
        stage.done('with "quotes" and ✓')
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "exfm | under way | label | 3 of 12 windows"
    assert [parse("    " + line) for line in lines] == [
        Progress(event="started", stage="label"),
        Progress(event="under way", stage="label", text="3 of 12 windows"),
        Progress(event="done", stage="label", text='with "quotes" and ✓'),
    ]
    assert [found.walked for line in lines if (found := parse(line))] == [None, (3, 12), None]


def test_a_failure_is_said_with_all_its_lines_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServingError), running("smoke-test"):
        raise ServingError("the ranker ended; its last lines:\n  first\n  second")
    failed = parse(capsys.readouterr().out.splitlines()[-1])
    assert failed == Progress(
        "failed", "smoke-test", "the ranker ended; its last lines:\n  first\n  second", exit_code=3
    )


def test_a_line_without_progress_is_not_progress() -> None:
    assert parse("Epoch 1") is None
    assert parse("exfm | finished | label | it") is None


def test_what_would_fail_late_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = RUN + "bundle: {sharding: {num_shards: 9}}\n"
    with pytest.raises(PlanError, match="9 shards for 5 tables"):
        read_run_config(write_run(tmp_path, many)).check()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="root s3://bucket/run is remote; set MLFLOW_TRACKING_URI"):
        run_locally(read_run_config(write_run(tmp_path, RUN), root="s3://bucket/run"))


TWO = RUN + "foundation_models: [{name: likes, tasks: [like]}, {name: all}]\n"


@pytest.mark.parametrize(
    ("text", "teachers"),
    [
        (TWO, ("all",)),
        (TWO.replace("name: one", "name: one, tasks: [like]"), ("likes", "all")),
        (TWO.replace("name: one", "name: one, tasks: [like], teachers: [likes]"), ("likes",)),
        (RUN, ("fm",)),
    ],
)
def test_a_vertical_model_is_taught_by_those_that_it_names_or_by_all_that_have_its_tasks(
    tmp_path: Path, text: str, teachers: tuple[str, ...]
) -> None:
    config = read_run_config(write_run(tmp_path, text))
    config.check()
    assert config.teachers_of(config.vertical_models[0]) == teachers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            RUN + "foundation_models: [{tasks: [like]}, {name: other, tasks: [love]}]\n",
            "'one' has no foundation model that teaches all its tasks: 'fm' does not teach love; "
            "'other' does not teach like; add",
        ),
        (
            TWO.replace("name: one", "name: one, teachers: [likes]"),
            "'one' has task love, which its teacher 'likes' does not teach; add it to the `tasks` of 'likes'",
        ),
        (
            TWO.replace("name: one", "name: one, teachers: [big]"),
            "'one' has teacher big, but the run's foundation models are likes, all; correct `teachers`",
        ),
        (
            TWO.replace("name: one", "name: one, teachers: [all, all]"),
            "'one' has teacher all more than once; leave one of them",
        ),
    ],
)
def test_a_vertical_model_without_a_teacher_for_its_tasks_is_refused_before_anything_runs(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        read_run_config(write_run(tmp_path, text)).check()


def test_a_model_that_the_run_lacks_is_told_with_those_it_has(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, TWO))
    assert config.foundation_model("all").name == "all"
    with pytest.raises(ConfigError, match="no foundation model 'fm' in the run; there are likes, all"):
        config.foundation_model("fm")
    with pytest.raises(ConfigError, match="no vertical model 'two' in the run; there are one"):
        config.vertical_model("two")


def test_a_model_that_learns_from_labels_needs_no_teacher_unless_methods_are_compared(tmp_path: Path) -> None:
    one = "name: one, distillation: {method: label}"
    alone = RUN.replace("name: one", one) + "foundation_models: [{tasks: [like]}]\n"
    read_run_config(write_run(tmp_path, alone)).check()
    with pytest.raises(ConfigError, match="'one' has no foundation model that teaches all its tasks"):
        read_run_config(write_run(tmp_path, alone + "compare: [label, kd]\n")).check()


def test_a_group_that_is_given_in_part_keeps_its_other_defaults(tmp_path: Path) -> None:
    text = RUN.replace("name: one", "name: one, training: {learning_rate: 0.01}")
    text += "foundation_models: [{model: {network: {cross_rank: 8}}}, {name: other, model: {dim_factor: 2}}]\n"
    config = read_run_config(write_run(tmp_path, text))
    first, other = (foundation.model for foundation in config.foundation_models)
    assert (first.dim_factor, first.network.top_units, first.network.cross_rank) == (12, (128, 64), 8)
    assert (other.dim_factor, other.network.top_units) == (2, (128, 64))
    assert config.vertical_models[0].training.batch_size == 128
    assert RunConfig.parse(config.to_dict(), source="run") == config


def test_a_plan_that_a_bundle_is_to_take_starts_at_the_file_and_is_checked_before_anything_runs(tmp_path: Path) -> None:
    named = RUN + "bundle: {plan: 'plans/{model}.json', costs: s3://bucket/costs.yaml}\n"
    config = read_run_config(write_run(tmp_path, named))
    assert config.bundle.plan == str(tmp_path / "plans/{model}.json")
    assert config.bundle.costs == "s3://bucket/costs.yaml"
    with pytest.raises(StorageError, match=r"plans/one\.json"):
        config.check()


@pytest.mark.parametrize("strategy", ["capacity-balanced", "auto"])
def test_checking_a_run_plans_no_model(tmp_path: Path, strategy: str) -> None:
    sharding = f"bundle: {{sharding: {{strategy: {strategy}, demand: {{requests_per_s: 1000, p99_ms: 50}}}}}}\n"
    run = write_run(tmp_path, RUN + sharding)
    code = f"""
import sys
from pathlib import Path
from exfm_components.run_config import read_run_config
read_run_config(Path({str(run)!r})).check()
rooms = ["planner", "perf_model", "simulation", "proposer.strategies", "partitioner.packing"]
print([room for room in rooms if "exfm.planning." + room in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_previous_plan_of_another_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    old = ShardPlan(
        strategy="one-shard", num_shards=1, replicas=(1,),
        slices=(
            TableSlice(
                table="other", shard=0, encoding="fp32", first_row=0, num_rows=4, first_key="0x" + "0" * 16,
                last_key="0x" + "f" * 16,
                offset_bytes=0, size_bytes=64,
            ),
        ),
    )  # fmt: skip
    (tmp_path / "old.json").write_bytes(json_bytes(old.to_dict()))
    config = read_run_config(write_run(tmp_path, RUN + "bundle: {previous_plan: old.json}\n"))
    with pytest.raises(
        PlanError, match="the old plan has 1 tables, and none of the schema's 5: it is for another model"
    ):
        config.check()


def test_statistics_that_a_bundle_is_planned_with_are_read_before_anything_runs(tmp_path: Path) -> None:
    config = read_run_config(write_run(tmp_path, RUN + "bundle: {table_statistics: 'counted/{model}'}\n"))
    with pytest.raises(StorageError, match=r"counted/one/statistics\.json"):
        config.check()
    counted = statistics_of_schema(Schema.read(MOVIELENS), candidates_mean=100)
    Counted(counted, {}).write(str(tmp_path / "counted/one"))
    assert config.bundle.table_statistics == str(tmp_path / "counted/{model}")
    config.check()
    first, *others = counted.tables
    grown = first.model_copy(update={"rows": first.rows + 1})
    Counted(counted.model_copy(update={"tables": (grown, *others)}), {}).write(str(tmp_path / "counted/one"))
    with pytest.raises(PlanError, match=f"{first.name!r} has {first.rows} rows .* counted with {first.rows + 1}"):
        config.check()


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
        load(config.source)
