"""Feedback becomes labels by attribution window and reduction."""

import polars as pl
import pytest

from exfm.artifact.storage import ref_to
from exfm.das.labels import make_labels, match_feedback, reduce_labels
from exfm.errors import DataError
from exfm.events.labels import LabelsManifest
from exfm.events.log import RawLog, write_event_log
from exfm.events.partitions import read_partition
from exfm.schema import Schema


def schema_with(*labels: dict[str, object]) -> Schema:
    return Schema.parse(
        {
            "impression_key": "id",
            "event_time": {"column": "time"},
            "domain": "domain",
            "sparse": [{"name": "item", "net": "item", "table": "item"}],
            "tables": [{"name": "item", "rows": 16, "dim": 4}],
            "labels": list(labels),
        },
        source="test",
    )


def label(
    reduction: str = "any", *, window: int = 10, positive_from: float = 1.0, name: str = "good"
) -> dict[str, object]:
    return {
        "name": name,
        "feedback": "rating",
        "attribution_window": window,
        "reduction": reduction,
        "positive_from": positive_from,
    }


def impressions(*times: int) -> pl.DataFrame:
    return pl.DataFrame({"id": range(len(times)), "time": times}, schema={"id": pl.Int64, "time": pl.Int64})


def feedback(*rows: tuple[int, int, float], kind: str = "rating") -> pl.DataFrame:
    """Return feedback rows of (impression, time, value)."""
    return pl.DataFrame(
        [(key, time, kind, value) for key, time, value in rows],
        schema={"id": pl.Int64, "time": pl.Int64, "kind": pl.String, "value": pl.Float64},
        orient="row",
    )


def labels_of(shown: pl.DataFrame, said: pl.DataFrame, schema: Schema, *, known_until: int = 10_000) -> pl.DataFrame:
    matched, _ = match_feedback(shown, said, schema)
    return reduce_labels(shown, matched, schema, known_until=known_until)


def test_feedback_counts_up_to_the_end_of_its_attribution_window() -> None:
    schema = schema_with(label(window=10))
    labels = labels_of(impressions(0, 0, 0), feedback((0, 10, 1.0), (1, 11, 1.0)), schema)
    assert labels["label.good"].to_list() == [1, 0, 0]


def test_every_feedback_is_counted_once_by_what_became_of_it() -> None:
    said = pl.concat(
        [
            feedback((0, 1, 1.0), (0, 1, 1.0), (7, 1, 1.0), (1, 99, 1.0)),  # used, duplicate, orphan, late
            feedback((1, 2, 1.0), kind="share"),
        ]
    )
    _, counts = match_feedback(impressions(0, 0), said, schema_with(label()))
    assert counts.to_dict() == {
        "total": 5, "duplicate": 1, "orphan": 1, "late": 1, "other_kinds": 1, "used": 1
    }  # fmt: skip


def test_feedback_is_late_only_if_it_is_late_for_every_label_of_its_kind() -> None:
    schema = schema_with(label(window=1), label(window=50, name="later"))
    matched, counts = match_feedback(impressions(0), feedback((0, 20, 1.0)), schema)
    assert (counts.late, counts.used) == (0, 1)
    labels = reduce_labels(impressions(0), matched, schema, known_until=10_000)
    assert labels.select("label.good", "label.later").row(0) == (0, 1)


@pytest.mark.parametrize(
    ("reduction", "values", "positive_from", "expected"),
    [
        ("any", [0.0], 1.0, 1),
        ("max", [1.0, 5.0, 2.0], 4.0, 1),
        ("min", [1.0, 5.0, 2.0], 2.0, 0),
        ("last", [5.0, 5.0, 1.0], 4.0, 0),
        ("sum", [1.0, 1.5, 2.0], 4.5, 1),
        ("sum", [1.0, 1.5, 1.5], 4.5, 0),
    ],
)
def test_several_feedbacks_become_one_label_by_the_reduction(
    reduction: str, values: list[float], positive_from: float, expected: int
) -> None:
    said = feedback(*((0, time + 1, value) for time, value in enumerate(values)))
    schema = schema_with(label(reduction, positive_from=positive_from))
    assert labels_of(impressions(0), said, schema)["label.good"].to_list() == [expected]


def test_a_duplicate_does_not_count_twice_in_a_sum() -> None:
    schema = schema_with(label("sum", positive_from=2.0))
    assert labels_of(impressions(0), feedback((0, 1, 1.0), (0, 1, 1.0)), schema)["label.good"].to_list() == [0]


def test_a_label_is_unknown_until_its_attribution_window_is_over() -> None:
    labels = labels_of(impressions(88, 89, 90, 91), feedback((3, 92, 1.0)), schema_with(label()), known_until=100)
    assert labels["label.good"].to_list() == [0, 0, None, None]


def test_labels_keep_each_impression_in_its_order() -> None:
    labels = labels_of(impressions(5, 1, 3), feedback((1, 2, 1.0)), schema_with(label()))
    assert labels["id"].to_list() == [0, 1, 2]
    assert labels["label.good"].to_list() == [0, 1, 0]


class TestStage:
    schema = schema_with(label())

    def make(self, folder, said: pl.DataFrame, schema: Schema = schema) -> LabelsManifest:
        shown = impressions(0, 5, 12, 25).with_columns(
            pl.lit("all").alias("domain"), pl.Series("item", [1, 2, 3, 4], dtype=pl.Int64)
        )
        log = RawLog(impressions=shown, feedback=said, source="test", notes=(), names={})
        (folder / "events").mkdir(parents=True)
        write_event_log(log, schema=schema, window_length=10, folder=folder / "events")
        return make_labels(ref_to(str(folder / "events")), out=str(folder / "labels"))

    def test_each_window_has_the_labels_of_its_impressions(self, tmp_path) -> None:
        manifest = self.make(tmp_path, feedback((1, 6, 1.0), (2, 13, 1.0)))
        rows = [read_partition(tmp_path / "labels", window).rows() for window in manifest.windows]
        assert rows == [[(0, 0), (1, 1)], [(2, 1)], [(3, None)]]
        assert (manifest.num_impressions, manifest.num_immature) == (4, 1)

    def test_the_log_ends_with_its_last_event_not_with_its_last_window(self, tmp_path) -> None:
        manifest = self.make(tmp_path, feedback((1, 6, 1.0)), schema_with(label(window=2)))
        assert manifest.known_until == 26  # the last impression's time is 25, its window ends at 30
        assert read_partition(tmp_path / "labels", manifest.windows[-1]).rows() == [(3, None)]

    def test_the_label_revision_follows_labels_and_rules(self, tmp_path) -> None:
        said = feedback((1, 6, 1.0))
        first = self.make(tmp_path / "a", said).label_revision
        assert self.make(tmp_path / "b", said).label_revision == first
        assert self.make(tmp_path / "c", feedback((1, 7, 1.0))).label_revision == first
        assert self.make(tmp_path / "e", feedback((2, 13, 1.0))).label_revision != first
        assert self.make(tmp_path / "d", said, schema_with(label(window=11))).label_revision != first

    def test_a_label_of_a_kind_that_never_occurs_is_refused(self, tmp_path) -> None:
        with pytest.raises(
            DataError, match=r"label 'good': no feedback is of kind 'rating'; the log's kinds are share"
        ):
            self.make(tmp_path, feedback((1, 6, 1.0), kind="share"))
        assert not (tmp_path / "labels").exists()
