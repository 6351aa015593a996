"""Examples: an impression's features, labels and pseudo-labels in one row of one dataset."""

from collections.abc import Sequence
from contextlib import ExitStack

from exfm.artifact.output import writing
from exfm.artifact.storage import Ref, reading
from exfm.events.examples import ExamplesManifest, pseudo_labels_input, read_frame
from exfm.events.labels import LabelsManifest, PseudoLabelsManifest
from exfm.events.partitions import write_partition


def join_examples(*, events: Ref, labels: Ref, pseudo_labels: Sequence[Ref], out: str) -> ExamplesManifest:
    """Join a log's impressions with their labels and pseudo-labels by impression key; return their manifest.

    `pseudo_labels` are those of several foundation models, one dataset each.

    Raises: StorageError if labels or pseudo-labels were not made from `events`; DataError if an impression lacks a
    label row or a pseudo-label row, or has several.
    """
    with ExitStack() as stack:
        log, labels_folder = (stack.enter_context(reading(ref)) for ref in (events, labels))
        pseudo_folders = [stack.enter_context(reading(ref)) for ref in pseudo_labels]
        known = LabelsManifest.read(labels_folder)
        made = [PseudoLabelsManifest.read(folder) for folder in pseudo_folders]
        for manifest in (known, *made):
            manifest.require_made_from(events=events)
        num_examples = 0
        with writing(out) as folder:
            for window in known.windows:
                datasets = (log / "impressions", labels_folder, *pseudo_folders)
                frame = read_frame(datasets, window, known.feature_schema)
                num_examples += len(frame)
                write_partition(frame, folder, window)
            return ExamplesManifest(
                windows=known.windows,
                label_revision=known.label_revision,
                inputs={"events": events, "labels": labels}
                | {pseudo_labels_input(pseudo.fm): ref for pseudo, ref in zip(made, pseudo_labels, strict=True)},
                feature_schema=known.feature_schema,
                known_until=known.known_until,
                fm_snapshots={
                    pseudo.fm: pseudo.snapshots[max(pseudo.snapshots)] if pseudo.snapshots else "" for pseudo in made
                },
                num_examples=num_examples,
            ).write(folder)
