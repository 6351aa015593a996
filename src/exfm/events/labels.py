"""What labels and pseudo-labels of an event log say of themselves; exfm.das makes them, others read them."""

from typing import Literal

from exfm.artifact.manifest import Manifest
from exfm.config import Config
from exfm.schema import WrittenSchema


class FeedbackCounts(Config):
    """What became of the feedback."""

    total: int
    duplicate: int
    """Feedback that is the same as another, for the same impression at the same time; dropped."""
    orphan: int
    """Feedback for an impression that the log does not have; dropped."""
    late: int
    """Feedback after the attribution window of every label that it could count for; dropped."""
    other_kinds: int
    """Feedback of a kind that no label uses; dropped."""
    used: int


class LabelsManifest(Manifest):
    """Labels of all impressions."""

    kind: Literal["labels"] = "labels"
    feature_schema: WrittenSchema
    known_until: int
    """End of the log: feedback after it was not seen; in event time."""
    feedback: FeedbackCounts
    num_impressions: int
    num_immature: int
    """Impressions with a label that was not known yet at the end of the log."""

    def headline(self) -> str:
        """Return one line about this stage's output."""
        counts = self.feedback
        return (
            f"{self.num_impressions:,} impressions labelled; of {counts.total:,} feedbacks {counts.late:,} late, "
            f"{counts.duplicate:,} duplicate, {counts.orphan:,} orphan"
        )


class PseudoLabelsManifest(Manifest):
    """Pseudo-labels of all impressions."""

    kind: Literal["pseudo"] = "pseudo"
    fm: str
    """The foundation model's name."""
    tasks: tuple[str, ...]
    snapshots: dict[int, str]
    """The version that scored a window, by the window's index; windows without an eligible one are not there."""
    num_scored: int
    num_unscored: int
    """Impressions of windows that came before the first eligible snapshot."""

    def headline(self) -> str:
        """Return one line about this stage's output."""
        return (
            f"{self.num_scored:,} impressions scored by {len(set(self.snapshots.values()))} snapshots of {self.fm}, "
            f"{self.num_unscored:,} came before the first"
        )
