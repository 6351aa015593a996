"""The command line turns mistakes into one line and exit code 2."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest, draft_bundle, seal_bundle, tables_file
from exfm.artifact.manifest import write_json
from exfm.cli.main import main
from exfm.events.schemas import SYNTHETIC
from exfm.events.synthetic import SyntheticSource, load_synthetic

Outcome = tuple[int, str, str]
"""Exit code, stdout and stderr of a command."""


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Outcome:
    monkeypatch.setattr(sys, "argv", ["exfm", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    return lambda *arguments: run([str(argument) for argument in arguments], monkeypatch, capsys)


def write_query(folder: Path, body: Any) -> Path:
    path = folder / "query.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_help_names_every_stage(command: Callable[..., Outcome]) -> None:
    code, out, _ = command("--help")
    assert code == 0
    stages = ["ingest", "label", "train-fm", "join", "train-vm", "bundle", "register"]
    for name in ["run", "serve", "score", *stages]:
        assert f" {name} " in out


def test_the_version_is_the_packages(command: Callable[..., Outcome]) -> None:
    assert command("--version") == (0, f"exfm {version('exfm')}\n", "")


def test_a_shell_completes_commands_and_gets_its_script() -> None:
    program = [sys.executable, "-c", "import sys; from exfm.cli.main import main; sys.argv[0] = 'exfm'; main()"]
    asked = {"_EXFM_COMPLETE": "complete_bash", "COMP_WORDS": "exfm train-", "COMP_CWORD": "1"}
    found = subprocess.run(program, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["train-fm", "train-vm"]
    asked = {"_EXFM_COMPLETE": "source_bash"}
    script = subprocess.run(program, env=os.environ | asked, capture_output=True, text=True, check=True).stdout
    assert "complete" in script
    assert "exfm" in script


def test_help_loads_no_framework() -> None:
    code = "import sys, exfm.cli.main; print(sorted({'torch', 'kfp', 'mlflow', 'kserve', 'polars'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_stages_without_models_load_no_torch() -> None:
    """`exfm label` would take five times as long, a pod twice the memory, and the step `check` 3 s more."""
    modules = "exfm.das.stages, exfm_components.data_augmentation, exfm_components.preflight, exfm_pipelines.summary"
    code = f"import sys, {modules}; print(sorted({{'torch', 'scipy.stats', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("old", "new"), [("trace", "profile"), ("ask", "smoke-test")])
def test_a_renamed_command_is_refused_with_its_new_name(command: Callable[..., Outcome], old: str, new: str) -> None:
    code, out, err = command(old, "bundle", "--out", "trace.png")
    assert (code, out, err) == (2, "", f"exfm: `exfm {old}` has a new name; run `exfm {new}`\n")


def test_explain_prints_a_setting(command: Callable[..., Outcome]) -> None:
    code, out, err = command("explain", "run.foundation_models.training.batch_size")
    assert (code, err) == (0, "")
    assert out.startswith("run.foundation_models.training.batch_size\n  integer, 1 to 1,048,576; default 512\n")


def test_explain_refuses_an_unknown_setting(command: Callable[..., Outcome]) -> None:
    code, out, err = command("explain", "run.foundation_models.training.batch_sise")
    assert (code, out) == (2, "")
    assert err.startswith("exfm: run.foundation_models.training.batch_sise: there is no such setting; the nearest are ")
    assert "run.foundation_models.training.batch_size" in err


def test_score_answers_in_the_protocols_json(
    command: Callable[..., Outcome],
    make_bundle: Callable[[Path], BundleManifest],
    request_body: dict[str, Any],
    tmp_path: Path,
) -> None:
    manifest = make_bundle(tmp_path / "bundle")
    code, out, _ = command("score", tmp_path / "bundle", write_query(tmp_path, request_body))
    answer = json.loads(out)
    assert code == 0
    assert (answer["model_name"], answer["model_version"]) == ("students", manifest.bundle_id)
    assert [output["name"] for output in answer["outputs"]] == ["like", "love"]
    assert [len(output["data"]) for output in answer["outputs"]] == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "shoe_size"}, "unknown input 'shoe_size'"),
        ({"datatype": "INT64"}, "input 'age' has value 30.0, expected INT64"),
        ({"shape": [2]}, "input 'age' has shape [2] and data of length 1"),
    ],
)
def test_a_bad_request_is_one_line_and_exit_code_2(
    command: Callable[..., Outcome],
    make_bundle: Callable[[Path], BundleManifest],
    request_body: dict[str, Any],
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    make_bundle(tmp_path / "bundle")
    request_body["inputs"][0] |= change
    code, out, err = command("score", tmp_path / "bundle", write_query(tmp_path, request_body))
    assert (code, out) == (2, "")
    assert err.startswith("exfm: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_corrupt_bundle_is_one_line_and_exit_code_2(
    command: Callable[..., Outcome],
    make_bundle: Callable[[Path], BundleManifest],
    request_body: dict[str, Any],
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / tables_file(1)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = command("score", tmp_path / "bundle", write_query(tmp_path, request_body))
    assert code == 2
    assert "shards/1/tables.safetensors is damaged" in err


def test_a_missing_bundle_or_query_is_named(
    command: Callable[..., Outcome], make_bundle: Callable[[Path], BundleManifest], tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle")
    code, _, err = command("score", tmp_path / "nothing", tmp_path / "query.json")
    assert code == 2
    assert str(tmp_path / "nothing") in err
    code, _, err = command("score", tmp_path / "bundle", tmp_path / "query.json")
    assert code == 2
    assert str(tmp_path / "query.json") in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("shard: {listen: {grpc_port: 9000}}", "shard.listen: all servers listen on loopback"),
        (
            "{ranker: {listen: {host: 0.0.0.0}}, shard: {listen: {stream_port: 1}}}",
            "ranker.listen, shard.listen: all servers listen on loopback",
        ),
        ("shard: {grpc_port: 9000}", "shard: grpc_port is no longer a setting: set listen.grpc_port"),
        ("shards: {pooled_precision: fp16}", "shards: no such setting"),
        ("shard: {pooled_precision: fp12}", "shard.pooled_precision: expected 'fp32' or 'fp16'"),
        ("shard: {sums: fp16}", "shard: sums is no longer a setting: set pooled_precision"),
        ("ranker: {transport: grpc}", "ranker: transport is no longer a setting: rankers reach shards by streams"),
        ("- shard", "(top level): expected settings, each as `key: value` (found ['shard'])"),
        ("", "(top level): expected settings, each as `key: value` (found None)"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_settings_that_serve_cannot_follow_are_named(
    command: Callable[..., Outcome], tmp_path: Path, settings: str | None, message: str
) -> None:
    file = tmp_path / "serve.yaml"
    if settings is not None:
        file.write_text(settings)
    code, out, err = command("serve", tmp_path / "bundle", "--settings", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"exfm: {file}: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def run_on(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Return what writes the settings of a run on a source."""

    def write(source: dict[str, Any]) -> Path:
        settings = {
            "name": "run", "root": "out", "feature_schema": str(SYNTHETIC), "source": source, "window_length": 86_400,
            "foundation_models": [{"name": "fm"}], "vertical_models": [{"name": "search", "domains": ["search"]}],
        }  # fmt: skip
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        return tmp_path / "run.yaml"

    return write


def test_ingest_refuses_a_folder_without_ratings_and_leaves_nothing(
    command: Callable[..., Outcome], run_on: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = command("ingest", "run", "-c", run_on({"kind": "movielens", "folder": "empty"}))
    assert code == 2
    assert "ml-100k.inter" in err
    assert not (tmp_path / "out").exists()


def test_ingest_takes_a_synthetic_log_once(
    command: Callable[..., Outcome], run_on: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    config = run_on({"kind": "synthetic", "num_impressions": 2000})
    for _ in range(2):
        code, out, _ = command("ingest", "run", "-c", config)
        assert code == 0
        assert "2,000 impressions" in out
    assert (tmp_path / "out/tables/impressions/_delta_log").is_dir()


def test_ingest_check_tells_what_does_not_fit(command: Callable[..., Outcome], tmp_path: Path) -> None:
    log = load_synthetic(SyntheticSource(num_impressions=1000))
    impressions, feedback = tmp_path / "impressions.parquet", tmp_path / "feedback.parquet"
    log.impressions.write_parquet(impressions)
    log.feedback.write_parquet(feedback)
    own = yaml.safe_load(SYNTHETIC.read_text(encoding="utf-8"))
    schema = tmp_path / "schema.yaml"
    for user, expected in (("user_id", 0), ("clicked_ads", 2)):
        schema.write_text(yaml.safe_dump(own | {"user": user}), encoding="utf-8")
        code, out, err = command("ingest", "check", impressions, "--schema", schema, "--feedback", feedback)
        assert code == expected
        assert "  segment                 fits\n" in out
        assert "  kind           fits\n" in out
        assert ("clicked_ads" in err) == (code == 2)


CLUSTER_RUN = Path(__file__).parents[1] / "examples/movielens/kubeflow.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("pipelines", "compile", "-c", str(CLUSTER_RUN), "--out", "s3://bucket/pipelines"),
        ("profile", "bundle", "--out", "s3://bucket/profile.png"),
    ],
)
def test_what_is_written_on_this_machine_only_is_not_written_to_a_folder_named_s3(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    program = [sys.executable, "-c", "from exfm.cli.main import main; main()", *arguments]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "is written on this machine only; name a path" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_stage_before_its_inputs_says_which_stage_is_missing(command: Callable[..., Outcome], tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "examples/movielens/run.yaml"
    code, _, err = command("bundle", "students", "-c", config, "--root", tmp_path)
    assert code == 2
    assert f"{tmp_path}/models/students: no manifest.json there; run the stage that writes it" in err


def test_a_stage_of_a_log_that_is_not_there_yet_does_nothing(command: Callable[..., Outcome], tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "examples/movielens/run.yaml"
    code, out, err = command("train-fm", "fm", "-c", config, "--root", tmp_path)
    assert (code, err) == (0, "")
    assert "fm has learned nothing yet: it waits for a window of its examples to be closed" in " ".join(out.split())


def test_deploy_renders_a_bundles_objects_without_a_cluster(
    command: Callable[..., Outcome], make_bundle: Callable[[Path], BundleManifest], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    manifest = make_bundle(folder)
    arguments = ("deploy", folder, "--serve-from", "pvc://models/one", "--render")
    code, _, err = command(*arguments, "--version", "7")
    assert code == 2
    assert "the bundle lacks golden/request.json, golden/response.json" in err
    for name in (GOLDEN_REQUEST, GOLDEN_RESPONSE):
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, {})
    seal_bundle(
        folder,
        draft_bundle(
            name=manifest.name,
            schema=manifest.feature_schema,
            network=manifest.network,
            plan=manifest.plan,
            lineage=manifest.lineage,
        ),
    )
    code, out, _ = command(*arguments, "--version", "7", "--namespace", "ranking")
    assert code == 0
    objects = list(yaml.safe_load_all(out))
    assert [item["metadata"]["name"] for item in objects if item["kind"] == "InferenceService"] == [
        *(f"{manifest.name}-v7-s{shard}" for shard in range(manifest.plan.num_shards)), manifest.name,
    ]  # fmt: skip
    assert {item["metadata"]["namespace"] for item in objects} == {"ranking"}
    code, _, err = command(*arguments)
    assert code == 2
    assert "give --version" in err


def test_deploy_refuses_a_bundle_that_pods_cannot_read_and_another_digest(
    command: Callable[..., Outcome], make_bundle: Callable[[Path], BundleManifest], tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle")
    code, _, err = command("deploy", tmp_path / "bundle")
    assert code == 2
    assert "is a folder of this machine, which pods cannot read" in err
    code, _, err = command("deploy", "pvc://models/one")
    assert code == 2
    assert "can be read by pods only" in err
    code, _, err = command("deploy", tmp_path / "bundle", "--serve-from", "pvc://models/one", "--digest", "0" * 64)
    assert code == 2
    assert f"expected {'0' * 64}; the bundle was written again since" in err


def test_promote_names_a_registry_that_is_not_there(command: Callable[..., Outcome], tmp_path: Path) -> None:
    code, _, err = command("promote", "students", "--root", tmp_path)
    assert code == 2
    assert "there is no registry" in err
