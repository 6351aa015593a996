"""Pseudo-labels come from a teacher that could have existed."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stream import Stream

from exfm.artifact.storage import Ref, ref_to
from exfm.das.join import join_examples
from exfm.das.labels import make_labels
from exfm.das.pseudo_labels import make_pseudo_labels
from exfm.errors import StorageError
from exfm.events.examples import ExamplesManifest
from exfm.events.labels import PseudoLabelsManifest
from exfm.events.log import FEEDBACK, IMPRESSIONS, EventLogManifest, RawLog, write_event_log
from exfm.events.partitions import read_partition
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow


def test_a_pseudo_label_never_comes_from_a_snapshot_that_knew_something_later(
    stream: Stream, foundation: Ref, examples: Ref
) -> None:
    model = ModelManifest.read(stream.folder(foundation))
    known_until = {snapshot.version: snapshot.known_until for snapshot in model.snapshots}
    scored = 0
    for window in ExamplesManifest.read(stream.folder(examples)).windows:
        rows = read_partition(stream.folder(examples), window).drop_nulls("pseudo_snapshot.fm")
        for version in rows["pseudo_snapshot.fm"].unique():
            assert known_until[version] <= window.start
        expected_age = rows["event_time_s"] - rows["pseudo_snapshot.fm"].replace_strict(known_until)
        assert rows["pseudo_age.fm"].equals(expected_age.alias("pseudo_age.fm"), null_equal=False)
        scored += len(rows)
    assert scored > 2000


def test_the_newest_snapshot_that_may_teach_is_taken(stream: Stream, foundation: Ref, examples: Ref) -> None:
    model = ModelManifest.read(stream.folder(foundation))
    for window in model.windows:
        eligible = [snapshot for snapshot in model.snapshots if snapshot.known_until <= window.start]
        versions = read_partition(stream.folder(examples), window)["pseudo_snapshot.fm"].unique().to_list()
        shown = not read_partition(stream.folder(stream.events) / IMPRESSIONS, window).is_empty()
        assert versions == ([eligible[-1].version if eligible else None] if shown else [])


def test_scoring_says_after_each_window_how_many_are_done_of_how_many(
    stream: Stream, foundation: Ref, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    manifest = make_pseudo_labels(
        events=stream.events,
        foundation=foundation,
        out=str(tmp_path / "pseudo"),
        on_window=lambda *walked: seen.append(walked),
    )
    num_windows = len(manifest.windows)
    assert seen == [(num_done, num_windows) for num_done in range(1, num_windows + 1)]


def test_impressions_before_the_first_snapshot_have_no_pseudo_label(stream: Stream, examples: Ref) -> None:
    manifest = PseudoLabelsManifest.read(stream.root / "pseudo")
    first = read_partition(stream.folder(examples), manifest.windows[0])
    assert first["pseudo.fm.click"].null_count() == len(first) > 0
    assert manifest.num_scored + manifest.num_unscored == 4000


def test_a_pseudo_label_is_its_snapshots_score(stream: Stream, foundation: Ref, examples: Ref) -> None:
    manifest = ModelManifest.read(stream.folder(foundation))
    window = manifest.windows[5]
    snapshot = manifest.snapshot_for(window.start)
    assert snapshot is not None
    teacher = RankingModel(manifest.feature_schema, manifest.model)
    load_weights(teacher, stream.folder(foundation) / snapshot.folder)
    impressions = read_partition(stream.folder(stream.events) / IMPRESSIONS, window)
    expected = teacher.probabilities(
        encode_examples(raw_columns(impressions.to_arrow(), teacher.schema), teacher.schema)
    )
    found = read_partition(stream.folder(examples), window)
    np.testing.assert_allclose(found["pseudo.fm.click"].to_numpy(), expected[:, 0], rtol=1e-6)
    assert np.ptp(expected) > 0.01, "a constant teacher would pass for any other"


def test_examples_hold_every_impression_once_with_its_own_label(stream: Stream, examples: Ref) -> None:
    manifest = ExamplesManifest.read(stream.folder(examples))
    joined = pl.concat([read_partition(stream.folder(examples), window) for window in manifest.windows])
    labels = pl.concat([read_partition(stream.folder(stream.labels), window) for window in manifest.windows])
    assert manifest.num_examples == len(joined) == joined["impression_id"].n_unique() == 4000
    both = joined.join(labels, on="impression_id", suffix="_own")
    assert both["label.click"].equals(both["label.click_own"].alias("label.click"))
    assert manifest.fm_snapshots == {"fm": "fm-00007"}  # window 8 is not known yet when 9, the last one, starts


def test_what_was_made_from_the_log_before_one_more_feedback_came_is_refused(
    stream: Stream, foundation: Ref, examples: Ref, tmp_path: Path
) -> None:
    events, out = with_one_more_feedback(stream, tmp_path / "events"), str(tmp_path / "out")
    pseudo_labels = ExamplesManifest.read(stream.folder(examples)).pseudo_labels_of("fm")
    make_labels(events, out=str(tmp_path / "labels"))
    labels = ref_to(str(tmp_path / "labels"))
    with pytest.raises(
        StorageError, match=rf"foundation output was made from {stream.events.uri}.*{events.uri}.*again"
    ):
        make_pseudo_labels(events=events, foundation=foundation, out=out)
    with pytest.raises(StorageError, match=r"labels output was made from .* run the stage that writes the labels"):
        join_examples(events=events, labels=stream.labels, pseudo_labels=[pseudo_labels], out=out)
    with pytest.raises(StorageError, match=r"pseudo output was made from .* run the stage that writes the pseudo"):
        join_examples(events=events, labels=labels, pseudo_labels=[pseudo_labels], out=out)
    assert not Path(out).exists()


def with_one_more_feedback(stream: Stream, folder: Path) -> Ref:
    log = stream.folder(stream.events)
    windows = EventLogManifest.read(log).windows
    feedback = pl.concat([read_partition(log / FEEDBACK, window) for window in windows])
    raw = RawLog(
        impressions=pl.concat([read_partition(log / IMPRESSIONS, window) for window in windows]),
        feedback=pl.concat([feedback, feedback.tail(1)]),
        source="a test",
        notes=(),
        names={},
    )
    folder.mkdir()
    write_event_log(raw, schema=stream.schema, window_length=43_200, folder=folder)
    return ref_to(str(folder))
