"""`exfm shard` plans, compares and explains, and turns mistakes into one line."""

import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from made_models import model, table

from exfm.artifact.bundle import read_plan
from exfm.artifact.plan import ShardPlan
from exfm.cli.main import main
from exfm.planning.counted import Counted
from exfm.schema import Schema
from logged_requests import random_requests, write_log

Outcome = tuple[int, str, str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["exfm", "shard", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    path = tmp_path / "schema.yaml"
    schema = model(table("ads", rows=5000, dim=16), table("users", rows=4000, dim=16, net="user"), table("few"))[0]
    path.write_text(yaml.safe_dump(schema.to_dict()), encoding="utf-8")
    return path


@pytest.mark.slow
def test_plan_compares_all_strategies_and_writes_the_plan_of_one(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("{num_shards: 2, demand: {requests_per_s: 200, p99_ms: 50}}", encoding="utf-8")
    out, drawing = tmp_path / "plan.json", tmp_path / "comparison.svg"
    code, said, _ = command(
        "plan", schema_file, "-s", settings, "--strategy", "nsbp", "--out", out, "--drawing", drawing
    )
    assert code == 0
    for strategy in ("singular", "one-shard", "capacity-balanced", "load-balanced", "nsbp", "auto"):
        assert f"\n{strategy}" in said
    plan = ShardPlan.parse(json.loads(out.read_text(encoding="utf-8")), source="test")
    plan.check(Schema.read(schema_file))
    assert plan.strategy == "nsbp"
    assert f"nsbp: 3 tables in 3 slices, 2 shards, {sum(plan.replicas)} server" in said
    assert drawing.read_bytes().startswith(b"<?xml")


def test_a_plan_from_a_previous_one_says_what_moves(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    assert command("plan", schema_file, "--out", out)[0] == 0
    code, said, _ = command("plan", schema_file, "--previous", out)
    assert code == 0
    assert "; moves 0 B (a plan from scratch: 0 B; at least: 0 B)" in said


def test_explain_says_why_a_table_is_where_it_is(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    command("plan", schema_file, "--out", out)
    code, said, _ = command("explain", "ads", schema_file, "--plan", out)
    assert code == 0
    assert said.startswith("ads (item net) has 5,000 rows of dim 16")
    assert "The plan (capacity-balanced) balances bytes" in said


def test_simulate_prints_latency_cpu_time_and_utilisation(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    command("plan", schema_file, "--out", out)
    arguments = ("simulate", schema_file, "--plan", out, "--num-requests", 1000, "--rankers", 2)
    code, said, _ = command(*arguments, "--requests-per-s", 100)
    assert code == 0
    assert said.startswith("latency at 100 requests/s: median ")
    assert "2 calls to shards" in said
    assert "overloaded" not in said
    assert "overloaded: queues grow without limit" in command(*arguments, "--requests-per-s", 100_000)[1]


def test_statistics_are_counted_on_a_log_and_planned_with(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    schema, counted = Schema.read(schema_file), tmp_path / "statistics"
    write_log(tmp_path / "log", schema, [random_requests(schema, 200, seed=0)])
    code, said, _ = command("statistics", tmp_path / "log", "--model", schema_file, "--out", counted)
    assert code == 0
    assert said.splitlines()[0].split()[:7] == ["table", "net", "rows", "dim", "fp32", "fp16", "int8"]
    assert said.splitlines()[-1] == f"{counted}: 3 tables, counted on 200 requests"
    assert command("plan", schema_file, "--statistics", counted, "--out", tmp_path / "plan.json")[0] == 0
    code, said, _ = command("explain", "users", schema_file, "--plan", tmp_path / "plan.json", "--statistics", counted)
    keys = next(one for one in Counted.read(str(counted)).statistics.tables if one.name == "users").keys_per_request
    assert f"A request reads {keys:.3g} rows of it" in said


@pytest.mark.parametrize("question", [("explain", "ads"), ("simulate", "--requests-per-s", 100)])
def test_statistics_of_another_model_are_refused(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path, question: tuple[object, ...]
) -> None:
    plan, counted = tmp_path / "plan.json", tmp_path / "statistics"
    assert command("plan", schema_file, "--out", plan)[0] == 0
    tables = [table("ads", rows=7, dim=16), table("users", rows=4000, dim=16, net="user"), table("few")]
    Counted(model(*tables)[1], {}).write(str(counted))
    code, _, error = command(*question, schema_file, "--plan", plan, "--statistics", counted)
    assert code == 2
    assert error == (
        "exfm: table 'ads' has 5000 rows of dim 16, but was counted with 7 of dim 16; count again with this model\n"
    )


def test_a_mistake_is_one_line_with_the_numbers(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    code, _, error = command("plan", schema_file, "--strategy", "best")
    assert code == 2
    assert error.startswith("exfm: --strategy: strategy: expected 'auto', 'singular'")
    settings = tmp_path / "settings.yaml"
    settings.write_text("shard_memory_gib: 0.00004", encoding="utf-8")
    code, _, error = command("plan", schema_file, "-s", settings)
    assert code == 2
    assert error == (
        "exfm: 3 tables take 176.6 KiB, of which 'ads' takes 97.7 KiB, but 2 shards of 41.9 KiB have 83.9 KiB "
        "together; raise num_shards or shard_memory_gib\n"
    )
    code, _, error = command("explain", "ads", schema_file, "--plan", tmp_path / "no.json")
    assert (code, error) == (2, f"exfm: {tmp_path / 'no.json'}: no such file; run the stage that writes it\n")


@pytest.mark.parametrize("candidates", ["inf", "1e308", "nan", "0.5"])
def test_candidates_that_no_request_has_are_refused(
    command: Callable[..., Outcome], schema_file: Path, candidates: str
) -> None:
    code, _, error = command("plan", schema_file, "--candidates", candidates)
    assert code == 2
    assert "Invalid value for '--candidates'" in error


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--requests-per-s", 10, "--candidates-p99", "1e7"), "the load: candidates_p99: expected at most 1,000,000"),
        (
            ("--requests-per-s", 10, "--candidates-p99", 50),
            "candidates_p99 is 50, below the mean of 100 candidates per request; set it to 100 or more, or to 0",
        ),
    ],
)
def test_a_load_that_cannot_be_is_refused(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path, options: tuple[object, ...], problem: str
) -> None:
    out = tmp_path / "plan.json"
    assert command("plan", schema_file, "--out", out)[0] == 0
    code, _, error = command("simulate", schema_file, "--plan", out, *options)
    assert code == 2
    assert error.startswith(f"exfm: {problem}")


def test_what_cannot_be_written_is_refused_before_the_work(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    code, said, error = command("plan", schema_file, "--drawing", tmp_path / "a.jpg")
    assert (code, said) == (2, "")
    assert error == f"exfm: {tmp_path / 'a.jpg'}: a drawing must be PNG or SVG; name it *.png or *.svg\n"
    code, said, error = command("plan", schema_file, "--out", tmp_path)
    assert (code, said, error) == (2, "", f"exfm: {tmp_path}: is a folder; name a file\n")
    code, said, error = command("plan", schema_file, "--out", schema_file / "plan.json")
    assert (code, said) == (2, "")
    assert "its folder cannot be created (" in error


@pytest.mark.parametrize(("option", "value"), [("--requests-per-s", "1e10"), ("--rankers", "10001")])
def test_more_than_can_be_simulated_is_refused(
    command: Callable[..., Outcome], schema_file: Path, option: str, value: str
) -> None:
    code, _, error = command("simulate", schema_file, "--requests-per-s", 10, option, value)
    assert code == 2
    assert f"Invalid value for '{option}'" in error


def test_a_plan_is_written_to_a_store(command: Callable[..., Outcome], schema_file: Path) -> None:
    out = f"memory://{uuid.uuid4().hex}/plan.json"
    code, said, _ = command("plan", schema_file, "--out", out)
    assert (code, said.splitlines()[-1]) == (0, f"{out}: the plan")
    read_plan(out).check(Schema.read(schema_file))


def test_a_drawing_in_a_store_is_refused_before_the_work(command: Callable[..., Outcome], schema_file: Path) -> None:
    code, said, error = command("plan", schema_file, "--drawing", "s3://bucket/a.png")
    assert (code, said) == (2, "")
    assert error == (
        "exfm: s3://bucket/a.png: is written on this machine only; name a path, and copy the file afterwards\n"
    )


def test_the_folder_of_a_plan_is_made(command: Callable[..., Outcome], schema_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "no" / "folder" / "plan.json"
    assert command("plan", schema_file, "--out", out)[0] == 0
    assert command("plan", schema_file, "--previous", out)[0] == 0


def test_a_previous_plan_that_contradicts_itself_is_refused(
    command: Callable[..., Outcome], schema_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    assert command("plan", schema_file, "--out", out)[0] == 0
    plan = json.loads(out.read_text(encoding="utf-8"))
    plan["slices"][0]["shard"] = 7
    out.write_text(json.dumps(plan), encoding="utf-8")
    code, _, error = command("plan", schema_file, "--previous", out)
    assert code == 2
    assert error.startswith("exfm: the old plan places table 'ads' on shard 7, but has 2 shards")
