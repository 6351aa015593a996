"""Published data sets, in small files of each layout, become logs."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from dataset_files import TABLES, Drawn, write_files
from polars.testing import assert_frame_equal

from exfm.das.advance import advance
from exfm.das.log_tables import Das
from exfm.errors import ConfigError, DataError, StorageError
from exfm.events.datasets import NAMES, spreading
from exfm.events.datasets.conversion import FILES, Converted, convert
from exfm.events.datasets.dataset import data_set
from exfm.events.fitting import fit_feedback, fit_impressions, require_fit
from exfm.events.parquet import LogSource
from exfm.events.schemas import FOLDER
from exfm.events.sources import about
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.schema import Schema
from exfm.training.config import TrainingConfig
from exfm.training.learner import LabelLearner
from exfm.training.line import Line
from exfm.training.manifest import ModelManifest
from exfm_components.run_config import read_run_config

EXAMPLES = Path(__file__).parents[2] / "examples"
ORDINAL = ("taobao_x1", "kuaivideo_x1", "amazon_electronics_x1", "criteo_kaggle", "criteo_x4")
"""Data sets without time."""


def ingest(name: str, folder: Path, out: Path, *, mean_delay: float = 0.0) -> Converted:
    schema = (FOLDER / f"{name}.yaml").read_bytes()
    return convert(data_set(name), str(folder), str(out), schema=schema, mean_delay=mean_delay)


def log_of(out: Path) -> LogSource:
    return LogSource(impressions=f"{out}/impressions.parquet", feedback=f"{out}/feedback.parquet")


def refusal(name: str, folder: Path) -> str:
    """Return the error of a conversion, which left nothing."""
    out = folder.parent / "out"
    before = sorted(folder.parent.iterdir())
    with pytest.raises(DataError) as caught:
        ingest(name, folder, out)
    assert sorted(folder.parent.iterdir()) == before, "something is half written"
    return str(caught.value)


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def test_each_data_set_has_a_schema_and_a_valid_example() -> None:
    for name in NAMES:
        run = read_run_config(EXAMPLES / name / "run.yaml")
        run.check()
        assert run.feature_schema == Schema.read(FOLDER / f"{name}.yaml")
        assert "UNTRIED" in (EXAMPLES / name / "run.yaml").read_text(), name
    assert set(TABLES) == set(NAMES)


def test_an_adapter_has_at_most_60_lines() -> None:
    for name in NAMES:
        lines = (FOLDER.parent / "datasets" / f"{name}.py").read_text().splitlines()
        assert len(lines) <= 60, f"{name} has {len(lines)}"


@pytest.mark.parametrize("name", NAMES)
def test_the_log_of_a_data_set_fits_its_schema(name: str, tmp_path: Path) -> None:
    write_files(name, tmp_path / name)
    found = ingest(name, tmp_path / name, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    schema = Schema.read(tmp_path / "out" / "schema.yaml")
    shown = fit_impressions(f"{tmp_path}/out/impressions.parquet", schema)
    said = fit_feedback(f"{tmp_path}/out/feedback.parquet", schema, impressions=shown)
    require_fit([shown, said])
    assert shown.num_rows == found.num_impressions == (1_200 if name == "open_bandit" else 200)
    assert said.num_rows == sum(found.num_feedback.values())
    assert set(found.num_feedback) == {label.feedback for label in schema.labels}
    assert min(found.num_feedback.values()) > 0
    assert schema.event_time.column == "event_time"


@pytest.mark.parametrize("name", NAMES)
def test_no_impression_has_what_was_known_later(name: str, tmp_path: Path) -> None:
    write_files(name, tmp_path / name)
    ingest(name, tmp_path / name, tmp_path / "out")
    columns = set(pl.read_parquet_schema(tmp_path / "out" / "impressions.parquet"))
    assert not columns & {
        "timestamp",
        "clk",
        "nonclk",
        "label",
        "Label",
        "click",
        "conversion",
        "attribution",
        "cost",
        "click_pos",
    }
    assert not columns & {"conversion_time", "conversion_timestamp", "is_click", "is_like", "is_follow"}


def test_feedback_is_that_of_its_row(tmp_path: Path) -> None:
    write_files("taobao_x1", tmp_path / "x1")
    ingest("taobao_x1", tmp_path / "x1", tmp_path / "out")
    rows = pl.concat(pl.read_csv(tmp_path / "x1" / name) for name in ("train.csv", "test.csv")).with_row_index("row")
    shown, said = (pl.read_parquet(tmp_path / "out" / file) for file in FILES[1:])
    clicked = rows.filter(pl.col("clk") == 1)["row"].to_list()
    assert said["impression_id"].to_list() == said["event_time"].to_list() == clicked
    assert shown["event_time"].to_list() == list(range(200))
    assert shown["adgroup_id"].to_list() == rows["adgroup_id"].cast(pl.String).to_list()
    expected = [list(filter(None, (text or "").split("^"))) for text in rows["cate_his"].cast(pl.String)]
    assert shown["cate_his"].to_list() == expected


@pytest.mark.parametrize("packing", [".gz", ".bz2"])
def test_packed_files_are_read_as_they_are(packing: str, tmp_path: Path) -> None:
    for folder, ending in (("plain", ""), ("packed", packing)):
        write_files("criteo_x4", tmp_path / folder, packing=ending)
        ingest("criteo_x4", tmp_path / folder, tmp_path / f"{folder}-out")
    assert {path.suffix for path in (tmp_path / "packed").iterdir()} == {packing}
    for file in FILES[1:]:
        plain, packed = (pl.read_parquet(tmp_path / folder / file) for folder in ("plain-out", "packed-out"))
        assert_frame_equal(plain, packed)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    write_files("avazu", tmp_path / "one")
    rows = pl.read_csv(tmp_path / "one" / "train.csv", infer_schema=False)
    (tmp_path / "two").mkdir()
    other = rows.select(reversed(rows.columns)).with_columns(pl.lit("7").alias("more"))
    other.write_csv(tmp_path / "two" / "train.csv", include_bom=True)
    for folder in ("one", "two"):
        ingest("avazu", tmp_path / folder, tmp_path / f"{folder}-out")
    assert_frame_equal(*(pl.read_parquet(tmp_path / f"{folder}-out" / FILES[1]) for folder in ("one", "two")))


def test_hours_are_times_and_features(tmp_path: Path) -> None:
    write_files("avazu", tmp_path / "avazu")
    told = ingest("avazu", tmp_path / "avazu", tmp_path / "out")
    shown = pl.read_parquet(tmp_path / "out" / FILES[1])
    assert told.span == ("2014-10-21 01:00 UTC", "2014-10-30 23:00 UTC")
    found = shown.with_columns(pl.from_epoch("event_time").alias("time")).filter(pl.col("is_weekend") == 1)["time"]
    assert set(found.dt.strftime("%Y-%m-%d")) == {"2014-10-25", "2014-10-26"}
    assert shown["hour_of_day"].to_list() == pl.from_epoch(shown["event_time"]).dt.hour().to_list()


def test_users_and_ads_are_described_and_some_are_not(tmp_path: Path) -> None:
    write_files("taobao", tmp_path / "taobao")
    ingest("taobao", tmp_path / "taobao", tmp_path / "out")
    shown = pl.read_parquet(tmp_path / "out" / FILES[1]).sort("impression_id")
    assert shown["impression_id"].to_list() == list(range(200))
    assert shown.filter(pl.col("user") >= 35)["cms_segid"].null_count() == shown.filter(pl.col("user") >= 35).height > 0
    assert shown["campaign_id"].to_list() == [ad % 20 for ad in shown["adgroup_id"]]
    assert shown["price"].to_list() == [ad + 0.5 if ad % 4 else None for ad in shown["adgroup_id"]]
    assert shown["new_user_class_level"].null_count() < 200, "its header has a space after it"


def test_an_ad_has_what_its_user_did_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "BUFFER_ROWS", 700)
    write_files("taobao", tmp_path / "taobao", num_rows=3_000)
    ingest("taobao", tmp_path / "taobao", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "taobao"]
    shown = pl.read_parquet(tmp_path / "out" / FILES[1]).sort("impression_id")
    assert shown["impression_id"].to_list() == list(range(3_000))
    done = pl.read_csv(tmp_path / "taobao" / "behavior_log.csv", null_values="NULL").sort("time_stamp")
    for user, time, *found in shown.select("user", "event_time", "btag_his", "cate_his", "brand_his").iter_rows():
        before = done.filter(pl.col("nick") == user, pl.col("time_stamp") < time).tail(50)
        kinds = [("", "ipv", "cart", "fav", "buy").index(kind) for kind in before["btag"]]
        assert found == [kinds, before["cate"].to_list(), before["brand"].fill_null(0).to_list()]


def test_without_a_file_of_behaviours_sequences_are_empty_and_a_note_says_so(tmp_path: Path) -> None:
    write_files("taobao", tmp_path / "taobao")
    (tmp_path / "taobao" / "behavior_log.csv").unlink()
    found = ingest("taobao", tmp_path / "taobao", tmp_path / "out")
    shown = pl.read_parquet(tmp_path / "out" / FILES[1])
    assert shown.select(pl.col("^.*_his$").list.len().sum()).row(0) == (0, 0, 0)
    assert shown.schema["cate_his"] == pl.List(pl.Int64)
    assert "behavior_log.csv was not there, so the sequences btag_his, cate_his, brand_his are empty." in found.notes


def test_malformed_behaviours_are_refused(tmp_path: Path) -> None:
    write_files("taobao", tmp_path / "taobao")
    edit(tmp_path / "taobao" / "behavior_log.csv", lambda text: text[:-5])
    assert "behavior_log.csv: line 201 has " in refusal("taobao", tmp_path / "taobao")
    edit(tmp_path / "taobao" / "behavior_log.csv", lambda text: text.splitlines()[0] + "\n")
    assert "behavior_log.csv: there are no rows" in refusal("taobao", tmp_path / "taobao")


def test_campaigns_of_open_bandit_are_domains_with_items_of_their_own(tmp_path: Path) -> None:
    write_files("open_bandit", tmp_path / "obd", num_rows=20)
    ingest("open_bandit", tmp_path / "obd", tmp_path / "out")
    shown = pl.read_parquet(tmp_path / "out" / FILES[1])
    assert shown["impression_id"].to_list() == list(range(120))
    assert [shown["domain"][row] for row in range(0, 120, 20)] == ["all", "men", "women"] * 2
    assert [shown["policy"][row] for row in range(0, 120, 20)] == ["bts"] * 3 + ["random"] * 3
    rows = pl.read_csv(tmp_path / "obd" / "random" / "men" / "men.csv")
    men = shown[80:100]
    assert men["item_id"].to_list() == [f"men-{item}" for item in rows["item_id"]]
    assert men["item_feature_1"].to_list() == [f"bts{item % 3}" for item in rows["item_id"]], "of the first policy"
    affinities = rows.select("^user-item_affinity_.*$")
    assert men["total_affinity"].to_list() == affinities.sum_horizontal().to_list()
    assert men["affinity"].to_list() == [affinities[row, item] for row, item in enumerate(rows["item_id"])]
    liked = [[f"men-{item}" for item, value in enumerate(row) if value] for row in affinities.iter_rows()]
    assert men["affine_items"].to_list() == liked
    assert str(shown["event_time"].dtype) == "Datetime(time_unit='us', time_zone='UTC')"


def test_conversions_come_at_their_own_times(tmp_path: Path) -> None:
    write_files("criteo_delayed_feedback", tmp_path / "criteo", num_rows=3_000)
    found = ingest("criteo_delayed_feedback", tmp_path / "criteo", tmp_path / "out")
    text = pl.read_csv(tmp_path / "criteo" / "data.txt", separator="\t", has_header=False, infer_schema_length=None)
    said = pl.read_parquet(tmp_path / "out" / FILES[2])
    assert said["event_time"].to_list() == text.to_series(1).drop_nulls().to_list()
    assert found.span == (f"{text.to_series(0)[0]:,}", f"{text.to_series(0)[-1]:,}")
    schema = Schema.read(tmp_path / "out" / "schema.yaml")
    das = Das(root=str(tmp_path / "root"), schema=schema, window_length=86_400)
    list(advance(das, log_of(tmp_path / "out"), foundation_models={}))
    labels = das.table("labels", {}).state()
    num_days = len(labels.files)
    assert 25 <= num_days <= 30, "labels of 60 days are known after 30 days more"
    assert sum(labels.read([day])["label.conversion"].sum() for day in labels.files) > 0


@pytest.mark.parametrize("name", ["avazu", "criteo_x4", "open_bandit"])
def test_no_delay_is_made_up_unless_it_is_asked_for(name: str, tmp_path: Path) -> None:
    write_files(name, tmp_path / name)
    ingest(name, tmp_path / name, tmp_path / "at-once")
    delayed = ingest(name, tmp_path / name, tmp_path / "delayed", mean_delay=600)
    times = {}
    for out in ("at-once", "delayed"):
        shown, said = (pl.read_parquet(tmp_path / out / file) for file in FILES[1:])
        shown = shown.select("impression_id", shown="event_time")
        delays = said.join(shown, on="impression_id").select(pl.col("event_time") - pl.col("shown")).to_series()
        times[out] = delays.dt.total_seconds() if delays.dtype == pl.Duration else delays
    assert times["at-once"].max() == 0
    assert 300 < times["delayed"].mean() < 1_200  # type: ignore[operator]
    unit = "rows" if name in ORDINAL else "s"
    assert f"Delays of feedback are simulated (exponential, mean 600 {unit}, seed 0)." in delayed.notes


def test_real_delays_are_not_replaced_by_made_up_ones(tmp_path: Path) -> None:
    write_files("criteo_attribution", tmp_path / "criteo")
    with pytest.raises(DataError, match="has its own delays of feedback; leave --mean-delay at 0"):
        ingest("criteo_attribution", tmp_path / "criteo", tmp_path / "out", mean_delay=60)


@pytest.mark.parametrize("name", NAMES)
def test_the_report_says_that_time_is_the_order_of_rows(name: str, tmp_path: Path) -> None:
    write_files(name, tmp_path / name)
    found = ingest(name, tmp_path / name, tmp_path / "out")
    told = about(log_of(tmp_path / "out"), Schema.read(FOLDER / f"{name}.yaml"))
    assert told.notes == found.notes
    assert told.source.startswith(f"{found.title}, Parquet files {tmp_path}/out/impressions.parquet and ")
    assert any("event time is the number of a row" in note for note in told.notes) == (name in ORDINAL)
    assert set(told.notes) <= set(found.lines())


def test_a_log_whose_first_file_is_gone_or_no_ones_says_nothing(tmp_path: Path) -> None:
    schema = Schema.read(FOLDER / "avazu.yaml")
    assert about(log_of(tmp_path), schema).notes == ()
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "impressions.parquet")
    assert about(log_of(tmp_path), schema).notes == ()


def test_one_file_may_be_named_instead_of_its_folder(tmp_path: Path) -> None:
    write_files("criteo_kaggle", tmp_path / "dac")
    (tmp_path / "dac" / "train.txt").rename(tmp_path / "dac" / "day_0")
    assert ingest("criteo_kaggle", tmp_path / "dac" / "day_0", tmp_path / "out").num_impressions == 200


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_files("taobao", tmp_path / "taobao")
    (tmp_path / "taobao" / "ad_feature.csv").unlink()
    found = refusal("taobao", tmp_path / "taobao")
    assert found.startswith(
        f"{tmp_path}/taobao: ad_feature.csv is missing; looked for ad_feature.csv, ad_feature.csv.gz, "
        "ad_feature.csv.bz2; found behavior_log.csv, raw_sample.csv, user_profile.csv; name the folder"
    )


def test_columns_that_are_missing_are_named_with_those_found(tmp_path: Path) -> None:
    write_files("taobao_x1", tmp_path / "x1")
    edit(tmp_path / "x1" / "test.csv", lambda text: text.replace("price", "cost", 1).replace("pid", "scenario", 1))
    found = refusal("taobao_x1", tmp_path / "x1")
    assert f"{tmp_path}/x1/test.csv: line 1 lacks column 'pid', 'price'; found clk, btag_his, cate_his" in found


def test_another_separator_is_named(tmp_path: Path) -> None:
    write_files("amazon_electronics_x1", tmp_path / "amazon")
    edit(tmp_path / "amazon" / "train.csv", lambda text: text.replace(",", "\t"))
    found = refusal("amazon_electronics_x1", tmp_path / "amazon")
    assert f"{tmp_path}/amazon/train.csv: line 1 is separated by a tab, expected a comma: 'label\\tuser_id" in found


def test_another_separator_without_a_header_is_named(tmp_path: Path) -> None:
    write_files("criteo_kaggle", tmp_path / "dac")
    edit(tmp_path / "dac" / "train.txt", lambda text: text.replace("\t", ","))
    found = refusal("criteo_kaggle", tmp_path / "dac")
    assert f"{tmp_path}/dac/train.txt: line 1 has 1 fields, expected 40 separated by a tab: '" in found


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_torn_last_line_is_named(packing: str, tmp_path: Path) -> None:
    write_files("criteo_x4", tmp_path / "x4", packing=packing)
    path = tmp_path / "x4" / f"train.csv{packing}"
    text = gzip.decompress(path.read_bytes()) if packing else path.read_bytes()
    torn = text[: text.rindex(b",") - 40]
    path.write_bytes(gzip.compress(torn) if packing else torn)
    found = refusal("criteo_x4", tmp_path / "x4")
    assert f"{path}: line 161 has 3" in found
    assert " fields, expected 40: '" in found


def test_a_line_that_is_torn_within_its_last_field_is_named(tmp_path: Path) -> None:
    write_files("taobao_x1", tmp_path / "x1")
    edit(tmp_path / "x1" / "train.csv", lambda text: text[:-1])
    found = refusal("taobao_x1", tmp_path / "x1")
    assert f"{tmp_path}/x1/train.csv: line 161, the last one, has no line end, so it may be torn off" in found


def test_a_torn_packed_file_is_named(tmp_path: Path) -> None:
    write_files("criteo_attribution", tmp_path / "criteo")
    path = tmp_path / "criteo" / "criteo_attribution_dataset.tsv.gz"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: is damaged or torn off (" in refusal("criteo_attribution", tmp_path / "criteo")
    path.write_bytes(b"timestamp\tuid\n")
    assert f"{path}: line 1 cannot be read (" in refusal("criteo_attribution", tmp_path / "criteo")


def test_a_value_of_another_type_is_named_with_its_line(tmp_path: Path) -> None:
    write_files("taobao", tmp_path / "taobao")
    lines = (tmp_path / "taobao" / "raw_sample.csv").read_text().splitlines()
    fields = lines[100].split(",")
    lines[100] = ",".join([fields[0], "yesterday", *fields[2:]])
    (tmp_path / "taobao" / "raw_sample.csv").write_text("\n".join(lines) + "\n")
    found = refusal("taobao", tmp_path / "taobao")
    assert "raw_sample.csv: line 101: column 'time_stamp' is 'yesterday', expected a whole number" in found


@pytest.mark.parametrize(
    ("name", "file", "column", "value"),
    [
        ("avazu", "train.csv", "hour", "14109999"),
        ("open_bandit", "bts/men/men.csv", "timestamp", "yesterday"),
    ],
)
def test_a_time_that_cannot_be_read_is_named_with_its_line(
    name: str, file: str, column: str, value: str, tmp_path: Path
) -> None:
    write_files(name, tmp_path / name)
    path = tmp_path / name / file
    rows = pl.read_csv(path, infer_schema=False).with_row_index("row")
    changed = pl.when(pl.col("row") == 50).then(pl.lit(value)).otherwise(column).alias(column)
    rows.with_columns(changed).drop("row").write_csv(path)
    found = refusal(name, tmp_path / name)
    assert f"{path}: line 52: column '{column}' is '{value}', expected a time like '{rows[column][0]}'" in found


def test_a_label_that_is_neither_0_nor_1_is_named_with_its_line(tmp_path: Path) -> None:
    write_files("criteo_x4", tmp_path / "x4")
    edit(tmp_path / "x4" / "valid.csv", lambda text: text.replace(text.splitlines()[3], "7" + text.splitlines()[3][1:]))
    found = refusal("criteo_x4", tmp_path / "x4")
    assert "valid.csv: line 4: column 'Label' is '7', expected 0 or 1" in found


def test_a_label_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    write_files("criteo_kaggle", tmp_path / "dac")
    edit(tmp_path / "dac" / "train.txt", lambda text: text + text.splitlines()[0][1:] + "\n")
    found = refusal("criteo_kaggle", tmp_path / "dac")
    assert "train.txt: line 201: column 'label' is empty, expected 0 or 1" in found


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    write_files("avazu", tmp_path / "avazu")
    edit(tmp_path / "avazu" / "train.csv", lambda text: text.splitlines()[0] + "\n")
    assert "train.csv: there are no rows" in refusal("avazu", tmp_path / "avazu")
    edit(tmp_path / "avazu" / "train.csv", lambda _: "")
    assert "train.csv: line 1 is empty, expected the names of columns" in refusal("avazu", tmp_path / "avazu")
    write_files("criteo_kaggle", tmp_path / "dac", num_rows=1)
    edit(tmp_path / "dac" / "train.txt", lambda _: "")
    assert "train.txt: there are no rows" in refusal("criteo_kaggle", tmp_path / "dac")


def test_an_ad_that_is_described_twice_is_refused(tmp_path: Path) -> None:
    write_files("taobao", tmp_path / "taobao")
    edit(tmp_path / "taobao" / "ad_feature.csv", lambda text: text + text.splitlines()[8] + "\n")
    assert "ad_feature.csv: adgroup_id 7 is described more than once" in refusal("taobao", tmp_path / "taobao")


@pytest.mark.parametrize(
    ("schema", "error"), [(b"labels: [", "schema.yaml: not YAML: line 1"), (b"{}", "schema.yaml: .*impression_key")]
)
def test_a_malformed_schema_is_refused_before_anything_is_written(schema: bytes, error: str, tmp_path: Path) -> None:
    write_files("avazu", tmp_path / "avazu")
    with pytest.raises(ConfigError, match=error):
        convert(data_set("avazu"), str(tmp_path / "avazu"), str(tmp_path / "out"), schema=schema)
    assert [path.name for path in tmp_path.iterdir()] == ["avazu"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    write_files("avazu", tmp_path / "avazu")
    with pytest.raises(StorageError, match=r"avazu holds 'train\.csv', which no stage wrote"):
        ingest("avazu", tmp_path / "avazu", tmp_path / "avazu")
    assert (tmp_path / "avazu" / "train.csv").is_file()


@pytest.mark.slow
def test_two_million_rows_take_less_than_1_200_mib(tmp_path: Path) -> None:
    text = TABLES["criteo_kaggle"](Drawn(20_000))["train.txt"].write_csv(separator="\t", include_header=False).encode()
    with (tmp_path / "train.txt").open("wb") as file:
        for _ in range(100):
            file.write(text)
    command = ["exfm", "ingest", "criteo_kaggle", str(tmp_path), "--out", str(tmp_path / "out")]
    program = [sys.executable, "-c", f"import sys; from exfm.cli.main import main; sys.argv = {command!r}; main()"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, json.dumps(program)], capture_output=True, text=True, check=True
    )
    peak_mib = int(done.stdout.splitlines()[-1]) * 1024 // 2**20
    assert "2,000,000 impressions" in done.stdout
    assert peak_mib < 1_200


MEASURED = """
import json, resource, subprocess, sys
subprocess.run(json.loads(sys.argv[1]), check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command and prints its peak memory in KiB: of it alone, not of the tests' process."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taobao_x1", "criteo_x4", "criteo_delayed_feedback"])
def test_a_model_learns_a_data_set(name: str, tmp_path: Path) -> None:
    write_files(name, tmp_path / name, num_rows=6_000)
    ingest(name, tmp_path / name, tmp_path / "out")
    schema = small(Schema.read(tmp_path / "out" / "schema.yaml"))
    is_delayed = name == "criteo_delayed_feedback"
    das = Das(root=str(tmp_path / "root"), schema=schema, window_length=86_400 if is_delayed else 500)
    model = ModelConfig(network=NetworkConfig(bottom_units=(), top_units=(8,)))
    training = TrainingConfig(batch_size=32, warmup_windows=6 if not is_delayed else 33)
    line = Line("foundation", "fm", schema, model, training, LabelLearner)
    until = 90 * 86_400 if is_delayed else 6_000
    list(advance(das, log_of(tmp_path / "out"), foundation_models={"fm": line}, until=until))
    manifest = ModelManifest.parse(
        json.loads((tmp_path / "root" / "models" / "fm" / "manifest.json").read_text()), source="the manifest"
    )
    auc = manifest.overall[schema.tasks()[0]].auc
    assert auc is not None
    assert auc > 0.6


def small(schema: Schema) -> Schema:
    """Return a schema with tables for small files."""
    tables = [table.to_dict() | {"rows": min(table.rows, 512), "dim": 8} for table in schema.tables]
    return Schema.parse(schema.to_dict() | {"tables": tables}, source="the small schema")
