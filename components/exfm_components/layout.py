"""Where each stage's output lies below a run's root."""

from exfm.artifact.storage import join


def events(root: str) -> str:
    """Return where the event log is."""
    return join(root, "events")


def labels(root: str) -> str:
    """Return where the labels are."""
    return join(root, "examples", "labels")


def pseudo_labels(root: str) -> str:
    """Return where the pseudo-labels are."""
    return join(root, "examples", "pseudo")


def examples(root: str) -> str:
    """Return where the joined examples are."""
    return join(root, "examples", "joined")


def foundation(root: str) -> str:
    """Return where the foundation model is."""
    return join(root, "fm")


def vertical(root: str, name: str) -> str:
    """Return where a vertical model is."""
    return join(root, "vm", name)


def bundle(root: str, name: str) -> str:
    """Return where a vertical model's bundle is."""
    return join(root, "bundle", name)


def rehearsal(root: str) -> str:
    """Return where what the rehearsal asked, and was answered, is."""
    return join(root, "rehearsal.json")
