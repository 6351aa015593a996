"""Answered requests become rows that an event log's rules accept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from feature_schemas import SCHEMA

from exfm.errors import SchemaError, StorageError
from exfm.events.acceptance import sort_out_impressions
from exfm.features.impressions import (
    Answered,
    ImpressionsFile,
    Served,
    columns_of,
    log_schema,
    require_loggable,
    table_of,
)
from exfm.features.oip import NUMPY_TYPES, Datatype, Tensor
from exfm.features.request import raw_request
from exfm.schema import Schema

TWO_USERS: dict[str, tuple[Datatype, list[Any]]] = {
    "age": ("FP32", [30.0, float("nan")]),
    "tenure": ("FP32", [1.0, 2.0]),
    "user_id": ("INT64", [7]),
    "user_id.lengths": ("INT32", [1, 0]),
    "city": ("BYTES", [b"Ulm", "Köln".encode()]),
    "history": ("INT64", [1, 2, 3]),
    "history.lengths": ("INT32", [3, 0]),
    "searches": ("BYTES", []),
    "searches.lengths": ("INT32", [0, 0]),
    "price": ("FP32", [1.5, 2.5, 3.5]),
    "item_id": ("INT64", [11, 12, 13]),
    "words": ("BYTES", [b"a", b"b", b"c"]),
    "words.lengths": ("INT32", [2, 0, 1]),
    "shelves": ("INT64", [2**62]),
    "shelves.lengths": ("INT32", [0, 1, 0]),
    "num_candidates": ("INT32", [2, 1]),
}


ARRIVAL_NS = 1_700_000_000_123_456_789
SERVED = Served(model="students", bundle_id="abc", sampling_rate=0.25)


def changed(**changes: Any) -> Schema:
    return Schema.parse(SCHEMA.to_dict() | changes, source="tests")


def answer_to(
    request: dict[str, tuple[Datatype, list[Any]]], id_: str, *, schema: Schema = SCHEMA, is_degraded: bool = False
) -> Answered:
    """Return a request, answered with scores that rise by a hundredth from candidate to candidate."""
    tensors = {name: Tensor(kind, np.array(data, dtype=NUMPY_TYPES[kind])) for name, (kind, data) in request.items()}
    raw = raw_request(tensors, schema)
    scores = np.arange(raw.columns["item"].num_rows, dtype=np.float32) / 100
    return Answered(id_, ARRIVAL_NS, raw, {"click": scores}, is_degraded)


def rows_of(*answered: Answered, schema: Schema = SCHEMA, domain: str = "shop") -> pl.DataFrame:
    frame = pl.from_arrow(table_of(list(columns_of(answered, schema, domain=domain, served=SERVED)), answered))
    assert isinstance(frame, pl.DataFrame)
    return frame


def accepted(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return rows as a log takes them, all of them."""
    found = sort_out_impressions(rows, schema, of="impressions")
    assert found.rejected.is_empty()
    return found.accepted


def test_each_candidate_is_a_row_with_its_users_and_its_own_features_as_they_came() -> None:
    rows = rows_of(answer_to(TWO_USERS, "r"))
    assert rows["age"].fill_nan(None).to_list() == [30.0, 30.0, None]
    assert rows["user_id"].to_list() == [7, 7, None]
    assert rows["city"].to_list() == ["Ulm", "Ulm", "Köln"]
    assert rows["history"].to_list() == [[1, 2, 3], [1, 2, 3], []]
    assert rows["searches"].to_list() == [[], [], []]
    assert rows["item_id"].to_list() == [11, 12, 13]
    assert rows["words"].to_list() == [["a", "b"], [], ["c"]]
    assert rows["shelves"].to_list() == [[], [2**62], []]
    assert rows["score.click"].to_list() == pytest.approx([0.0, 0.01, 0.02])


def test_impressions_are_named_by_their_request_and_their_place_in_it() -> None:
    rows = rows_of(answer_to(TWO_USERS, "r-0"), answer_to(TWO_USERS, "r-1", is_degraded=True))
    assert rows["impression"].to_list() == ["r-0-0", "r-0-1", "r-0-2", "r-1-0", "r-1-1", "r-1-2"]
    assert rows["served.degraded"].to_list() == [False] * 3 + [True] * 3
    assert set(rows["served.bundle_id"]) == {"abc"}
    assert set(rows["time"]) == {1_700_000_000}


def test_a_requests_time_is_in_the_schemas_unit() -> None:
    schema = changed(event_time={"column": "time", "unit": "ms"})
    rows = rows_of(answer_to(TWO_USERS, "r-0", schema=schema), schema=schema)
    assert set(rows["time"]) == {ARRIVAL_NS // 10**6}
    assert set(accepted(rows, schema)["time"].dt.epoch("ms")) == {ARRIVAL_NS // 10**6}


def test_each_row_tells_what_its_request_and_its_ranker_were() -> None:
    rows = rows_of(answer_to(TWO_USERS, "r-0"), answer_to(TWO_USERS, "r-1"))
    assert set(rows["served.arrival_ns"]) == {ARRIVAL_NS}
    assert rows["served.user"].to_list() == [0, 0, 1] * 2
    assert set(rows["served.model"]) == {"students"}
    assert set(rows["served.sampling_rate"]) == {0.25}


def test_the_best_candidates_of_each_user_are_shown_as_many_as_the_request_says() -> None:
    answered = answer_to(TWO_USERS, "r")
    scores = {"click": np.array([0.1, 0.3, 0.2], dtype=np.float32), "buy": np.array([0.9, 0.1, 0.5], dtype=np.float32)}
    for num_shown, expected in (
        (0, [False, False, False]), (1, [False, True, True]), (2, [True, True, True]), (9, [True, True, True]),
    ):  # fmt: skip
        rows = rows_of(replace(answered, scores=scores, num_shown=num_shown))
        assert rows["served.is_shown"].to_list() == expected
    equal = {"click": np.ones(3, dtype=np.float32)}
    assert rows_of(replace(answered, scores=equal, num_shown=1))["served.is_shown"].to_list() == [True, False, True]


def test_candidates_of_a_request_that_does_not_say_so_are_not_known_to_be_shown() -> None:
    says = replace(answer_to(TWO_USERS, "r-1"), num_shown=2)
    rows = rows_of(answer_to(TWO_USERS, "r-0"), says)
    assert rows["served.is_shown"].to_list() == [None] * 3 + [True] * 3
    assert log_schema(SCHEMA).shown == "served.is_shown"
    silent = rows_of(answer_to(TWO_USERS, "r-0"))
    assert silent.schema["served.is_shown"] == pl.Boolean


def test_an_event_logs_rules_accept_the_rows() -> None:
    labels = [{"name": "click", "feedback": "click", "attribution_window": 10, "truth": "planted"}]
    schema = changed(labels=labels, weight="weight", negative_sampling_rate="rate")
    rows = rows_of(answer_to(TWO_USERS, "r-0"), answer_to(TWO_USERS, "r-1"), schema=schema)
    checked = accepted(rows, log_schema(schema))
    assert checked["domain"].to_list() == ["shop"] * 6
    assert checked["weight"].to_list() == checked["rate"].to_list() == [1.0] * 6
    assert "score.click" not in checked.columns


@pytest.mark.parametrize(("user", "told"), [("user_id", "user_id"), ("account", "")])
def test_requests_tell_their_user_where_the_user_is_a_feature(user: str, told: str) -> None:
    assert log_schema(changed(user=user)).user == told


def test_a_domain_that_is_a_feature_is_the_requests_own_where_it_is_told() -> None:
    schema = changed(domain="city")
    request = TWO_USERS | {"city": ("BYTES", [b"Ulm"]), "city.lengths": ("INT32", [1, 0])}
    rows = rows_of(answer_to(request, "r", schema=schema), schema=schema)
    assert accepted(rows, schema)["city"].to_list() == ["Ulm", "Ulm", "shop"]


def test_an_id_that_is_no_text_is_written_with_a_mark_in_the_place_of_what_is_not() -> None:
    request = TWO_USERS | {"city": ("BYTES", [b"U\xffm", b"Bonn"])}
    assert rows_of(answer_to(request, "r"))["city"].to_list() == ["U\ufffdm", "U\ufffdm", "Bonn"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (changed(event_time={"column": "time", "kind": "ordinal"}), "event_time 'time' is ordinal"),
        (SCHEMA, "domain 'domain' is no feature.*`request_log.domain`"),
        (changed(domain="user_id"), "domain 'user_id' is no single string"),
        (changed(domain="words"), "domain 'words' is no single string"),
        (changed(domain="age"), "domain 'age' is no single string"),
    ],
)
def test_what_requests_do_not_tell_is_named(schema: Schema, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        require_loggable(schema, domain="")


@pytest.mark.parametrize(("schema", "domain"), [(SCHEMA, "shop"), (changed(domain="city"), "")])
def test_a_domain_that_is_given_or_a_feature_is_enough(schema: Schema, domain: str) -> None:
    require_loggable(schema, domain=domain)


def test_a_file_is_there_once_it_is_finished_and_not_before(tmp_path: Path) -> None:
    answered = [answer_to(TWO_USERS, "r")]
    rows = table_of(list(columns_of(answered, SCHEMA, domain="shop", served=SERVED)), answered)
    file = ImpressionsFile(tmp_path / "whole", partial=tmp_path / "partial")
    file.add(rows)
    file.add(rows)
    assert not (tmp_path / "whole").exists()
    assert file.size_bytes > 0
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert pl.read_parquet(tmp_path / "whole")["item_id"].to_list() == [11, 12, 13] * 2


def test_a_file_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    answered = [answer_to(TWO_USERS, "r")]
    file = ImpressionsFile(tmp_path / "whole", partial=tmp_path / "partial")
    file.add(table_of(list(columns_of(answered, SCHEMA, domain="shop", served=SERVED)), answered))
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_place_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/partial: .*make room"):
        ImpressionsFile(tmp_path / "whole", partial=tmp_path / "nowhere" / "partial")


def test_a_full_disk_is_told_and_leaves_nothing_to_read(tmp_path: Path) -> None:
    answered = [answer_to(TWO_USERS, "r")]
    (tmp_path / "partial").symlink_to("/dev/full")
    file = ImpressionsFile(tmp_path / "whole", partial=tmp_path / "partial")
    with pytest.raises(StorageError, match="No space left on device"):
        file.add(table_of(list(columns_of(answered, SCHEMA, domain="shop", served=SERVED)), answered))
    file.discard()
    assert list(tmp_path.iterdir()) == []
