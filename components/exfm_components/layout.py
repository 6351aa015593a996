"""Where each stage's output lies below a run's root."""

from exfm.artifact.stores import join


def model(root: str, name: str) -> str:
    """Return where a model's manifest and states are."""
    return join(root, "models", name)


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


def comparison(root: str) -> str:
    """Return where the figures of a comparison of methods are."""
    return join(root, "comparison.json")


def comparison_page(root: str) -> str:
    """Return where a comparison's page is."""
    return join(root, "comparison.html")


def outputs(root: str, stage: str) -> tuple[str, ...]:
    """Return what a stage, named as in its progress lines ("bundle NAME"), leaves below a root besides tables."""
    kind, _, name = stage.partition(" ")
    of_run = {
        "smoke-test": (smoke_test,),
        "report": (report, summary, query),
        "compare": (comparison, comparison_page),
    }
    of_model = {"train-fm": model, "train-vm": model, "bundle": bundles}
    if kind in of_model:
        return (of_model[kind](root, name),)
    return tuple(place(root) for place in of_run.get(kind, ()))  # none: it writes to a registry or a cluster


def results(root: str) -> tuple[str, ...]:
    """Return the files with what a run found, but for a comparison, which says itself what it is of."""
    return smoke_test(root), report(root), summary(root), query(root)
