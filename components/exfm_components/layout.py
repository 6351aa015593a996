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


def bundles(root: str, name: str) -> str:
    """Return the folder of a vertical model's bundles, one below its id each."""
    return join(root, "bundle", name)


def bundle(root: str, name: str, bundle_id: str) -> str:
    """Return where one of them is."""
    return join(bundles(root, name), bundle_id)


def smoke_test(root: str) -> str:
    """Return where the smoke test's request and answer are."""
    return join(root, "smoke-test.json")


def report(root: str) -> str:
    """Return where the report is."""
    return join(root, "report.html")


def summary(root: str) -> str:
    """Return where the report's figures are."""
    return join(root, "summary.json")


def query(root: str) -> str:
    """Return where a request for the first vertical model is."""
    return join(root, "query.json")


def outputs(root: str, stage: str) -> tuple[str, ...]:
    """Return what a stage, named as in its progress lines ("train-vm NAME"), leaves below a root."""
    kind, _, name = stage.partition(" ")
    match kind:
        case "ingest":
            return (events(root),)
        case "label":
            return (labels(root),)
        case "train-fm":
            return (foundation(root),)
        case "pseudo-label":
            return (pseudo_labels(root),)
        case "join":
            return (examples(root),)
        case "train-vm":
            return (vertical(root, name),)
        case "bundle":
            return (bundles(root, name),)
        case "smoke-test":
            return (smoke_test(root),)
        case "report":
            return (report(root), summary(root), query(root))
        case _:  # the others write to a registry or a cluster, or nothing
            return ()


def results(root: str) -> tuple[str, ...]:
    """Return the files with what a run found."""
    return smoke_test(root), report(root), summary(root), query(root)
