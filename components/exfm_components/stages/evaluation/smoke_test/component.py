"""The component smoke_test."""

from exfm_components.stages import component


@component
def smoke_test(root: str, bundles: list[dict]) -> str:
    """Serve the first bundle by its shards and ranker, and send it its golden query.

    Request and answer are a file, because a struct would turn the request's ids into floats.

    Args:
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        bundles: References to bundles, as `make_bundle` returns them.

    Returns:
        Output: The URI of request and answer; empty if there is no bundle yet.
    """
    from exfm_components.progress import running

    with running("smoke-test") as stage:
        from exfm.artifact.manifest import json_bytes
        from exfm.artifact.stores import write_file
        from exfm.serving.smoke_test import run_smoke_test
        from exfm_components import layout
        from exfm_components.artifacts import refs

        there = refs(bundles, source="bundles")
        if not there:
            stage.done("no model has learned yet: there is nothing to serve")
            return ""
        found = run_smoke_test(there[0])
        write_file(layout.smoke_test(root), json_bytes(found.to_dict()))
        stage.done(found.headline())
        return layout.smoke_test(root)
