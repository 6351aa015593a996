"""The Open Bandit Dataset, in small files of its layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from exfm.das.advance import advance
from exfm.das.log_tables import Das
from exfm.errors import DataError
from exfm.events.log import RawLog
from exfm.events.open_bandit import CAMPAIGNS, OpenBanditSource, load_open_bandit
from exfm.events.open_bandit import ITEMS as ITEMS_FILE
from exfm.events.sources import about, require_source
from exfm.schema import Schema

SCHEMA = Schema.read(Path(__file__).parents[2] / "examples" / "open_bandit" / "schema.yaml")
HEADER = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3,"
    "user-item_affinity_0,user-item_affinity_1,user-item_affinity_2"
)
ITEMS_HEADER = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"
ITEMS = [f"{item},{item},-0.{item},kind{item},b,c" for item in range(3)]
AT = "2019-11-24 00:0"
ROWS = {
    "all": [f"0,{AT}0:30.762830+00:00,1,3,0,0.25,u,v,w,x,0.0,0.0,0.0"],
    "men": [
        f"0,{AT}0:10+00:00,2,1,1,0.5,u,v,w,y,0.0,3.0,2.0",
        f"1,{AT}1:10.000001+00:00,0,2,0,1.0,u,v,w,y,0.0,3.0,2.0",
    ],
    "women": [f"0,{AT}0:30.500000+00:00,0,1,1,1e-06,t,v,w,x,1.0,0.0,0.0"],
}
START_S = 1_574_553_600


def write_policy(folder: Path, policy: str = "bts", *, rows: dict[str, list[str]] = ROWS) -> None:
    for campaign in CAMPAIGNS:
        place = folder / policy / campaign
        place.mkdir(parents=True)
        write(place / f"{campaign}.csv", [HEADER, *rows[campaign]])
        write(place / ITEMS_FILE, [ITEMS_HEADER, *ITEMS])


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def read(folder: Path) -> RawLog:
    return load_open_bandit(OpenBanditSource(folder=str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(folder)
    return str(caught.value)


def test_impressions_of_all_campaigns_are_in_order_of_time(tmp_path: Path) -> None:
    write_policy(tmp_path)
    shown = read(tmp_path).impressions
    assert shown["impression_id"].to_list() == [0, 1, 2, 3]
    assert shown["domain"].to_list() == ["men", "women", "all", "men"]
    assert [time - START_S for time in shown["event_time_s"]] == [10, 30, 30, 70]
    assert shown["item_id"].to_list() == ["men-2", "women-0", "all-1", "men-0"]
    assert shown["item_feature_1"].to_list() == ["kind2", "kind0", "kind1", "kind0"]
    assert shown["position"].to_list() == [1, 1, 3, 2]
    assert shown["propensity_score"].to_list() == [0.5, 1e-06, 0.25, 1.0]
    assert shown["user_feature_3"].to_list() == ["y", "x", "x", "y"]


def test_affinities_are_the_items_own_their_sum_and_the_items_that_have_one(tmp_path: Path) -> None:
    write_policy(tmp_path)
    shown = read(tmp_path).impressions
    assert shown["affinity"].to_list() == [2.0, 1.0, 0.0, 0.0]
    assert shown["total_affinity"].to_list() == [5.0, 1.0, 0.0, 5.0]
    assert shown["affine_items"].to_list() == [["men-1", "men-2"], ["women-0"], [], ["men-1", "men-2"]]


def test_a_click_is_known_at_once(tmp_path: Path) -> None:
    write_policy(tmp_path)
    log = read(tmp_path)
    assert log.feedback.rows() == [(0, START_S + 10, "click", 1.0), (1, START_S + 30, "click", 1.0)]
    das = Das(root=str(tmp_path / "root"), schema=SCHEMA, window_length=60)
    list(advance(das, OpenBanditSource(folder=str(tmp_path)), foundation_models={}))
    labels = das.table("labels", {}).state()
    assert [labels.read([window])["label.click"].to_list() for window in labels.files] == [[1, 1, 0]]


def test_policies_are_read_one_or_both(tmp_path: Path) -> None:
    write_policy(tmp_path)
    write_policy(tmp_path, "random", rows=ROWS | {"all": ROWS["all"] * 2})
    for campaign in CAMPAIGNS:
        write(tmp_path / "random" / campaign / ITEMS_FILE, [ITEMS_HEADER, *(item.upper() for item in ITEMS)])
    logs = [
        load_open_bandit(OpenBanditSource(folder=str(tmp_path), policies=policies)).impressions
        for policies in (("bts",), ("random",), ("bts", "random"))
    ]
    assert [log.height for log in logs] == [4, 5, 9]
    assert "kind1" in logs[0]["item_feature_1"]
    assert "KIND1" in logs[1]["item_feature_1"]
    assert set(logs[2]["item_feature_1"]) == {"kind0", "kind1", "kind2"}, "items are those of the first policy"


def test_a_source_is_told_with_its_policies(tmp_path: Path) -> None:
    write_policy(tmp_path)
    told = about(OpenBanditSource(folder=str(tmp_path)), SCHEMA).source
    assert told == "the Open Bandit Dataset by ZOZO, policy bts"


@pytest.mark.parametrize("check", [read, lambda folder: require_source(OpenBanditSource(folder=str(folder)))])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, check: Callable[[Path], object]) -> None:
    write_policy(tmp_path)
    (tmp_path / "bts" / "men" / ITEMS_FILE).unlink()
    with pytest.raises(DataError, match=r"bts/men lacks item_context\.csv; found men\.csv; name the folder"):
        check(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: bts/all lacks all\.csv, item_context\.csv; found nothing; name the"):
        check(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("timestamp", "yesterday", "timestamp is 'yesterday', expected a time such as 2019-11-24 00:00:17.004101+00"),
        ("item_id", "3", "item_id is '3', expected 0 to 2"),
        ("item_id", "one", "item_id is 'one', expected 0 to 2"),
        ("position", "0", "position is '0', expected at least 1"),
        ("click", "2", "click is '2', expected 0 or 1"),
        ("click", "", "click is None, expected 0 or 1"),
        ("propensity_score", "nan", "propensity_score is 'nan', expected a probability, 0 to 1"),
        ("user_feature_2", "", "user_feature_2 is None, expected text"),
        ("user-item_affinity_1", "-1", "user-item_affinity_1 is '-1', expected a number, at least 0"),
    ],
)
def test_a_malformed_value_is_refused_with_its_line(tmp_path: Path, column: str, value: str, message: str) -> None:
    first, second = ROWS["men"]
    fields = dict(zip(HEADER.split(","), second.split(","), strict=True)) | {column: value}
    write_policy(tmp_path, rows=ROWS | {"men": [first, ",".join(fields.values())]})
    found = refusal(tmp_path)
    assert found.startswith(f"{tmp_path}/bts/men/men.csv: 1 of 2 rows are malformed, the first in line 3: ")
    assert message in found


def test_items_that_are_not_numbered_by_their_rows_are_refused(tmp_path: Path) -> None:
    write_policy(tmp_path)
    write(tmp_path / "bts" / "women" / ITEMS_FILE, [ITEMS_HEADER, *ITEMS[1:]])
    message = refusal(tmp_path)
    assert (
        "women/item_context.csv: 2 of 2 rows are malformed, the first in line 2: item_id is '1', expected the"
        in message
    )


def test_a_column_that_is_missing_is_named_with_those_there_are(tmp_path: Path) -> None:
    write_policy(tmp_path)
    write(tmp_path / "bts" / "all" / "all.csv", [HEADER.replace("click", "clicked"), *ROWS["all"]])
    message = refusal(tmp_path)
    assert "all.csv: column 'click' is missing; the columns are timestamp, item_id, position, clicked, prop" in message
    write(tmp_path / "bts" / "all" / ITEMS_FILE, [ITEMS_HEADER, *ITEMS, "3,3,0,a,b,c"])
    write(tmp_path / "bts" / "all" / "all.csv", [HEADER, *ROWS["all"]])
    assert "all.csv: column 'user-item_affinity_3' is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "cannot be read as CSV"),
        ([HEADER], "there are no rows"),
        ([HEADER, ROWS["men"][0] + ",0.0"], "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    write_policy(tmp_path)
    (tmp_path / "bts" / "men" / "men.csv").write_text("".join(line + "\n" for line in lines))
    assert f"men/men.csv: {message}" in refusal(tmp_path)
