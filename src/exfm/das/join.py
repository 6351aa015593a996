"""Examples: an impression's features, labels and pseudo-labels in one row of one dataset."""

from exfm.artifact.output import writing
from exfm.artifact.storage import Ref, reading
from exfm.events.examples import ExamplesManifest, read_frame
from exfm.events.labels import LabelsManifest, PseudoLabelsManifest
from exfm.events.partitions import write_partition


def join_examples(*, events: Ref, labels: Ref, pseudo_labels: Ref, out: str) -> ExamplesManifest:
    """Join a log's impressions with their labels and pseudo-labels by impression key; return their manifest.

    Raises: StorageError if labels or pseudo-labels were not made from `events`; DataError if an impression lacks a
    label row or a pseudo-label row, or has several.
    """
    with reading(events) as log, reading(labels) as labels_folder, reading(pseudo_labels) as pseudo_folder:
        known = LabelsManifest.read(labels_folder)
        pseudo = PseudoLabelsManifest.read(pseudo_folder)
        known.require_made_from(events=events)
        pseudo.require_made_from(events=events)
        num_examples = 0
        with writing(out) as folder:
            for window in known.windows:
                datasets = (log / "impressions", labels_folder, pseudo_folder)
                frame = read_frame(datasets, window, known.feature_schema)
                num_examples += len(frame)
                write_partition(frame, folder, window)
            return ExamplesManifest(
                windows=known.windows,
                label_revision=known.label_revision,
                inputs={"events": events, "labels": labels, "pseudo_labels": pseudo_labels},
                feature_schema=known.feature_schema,
                known_until=known.known_until,
                fm_snapshots={pseudo.fm: pseudo.snapshots[max(pseudo.snapshots)] if pseudo.snapshots else ""},
                num_examples=num_examples,
            ).write(folder)
