"""The component make_bundle."""

from kfp import dsl

from exfm_components.stages import component


@component
def make_bundle(run: dict, root: str, vertical_model: dict, vertical: dict, bundle: dsl.Output[dsl.Model]) -> dict:
    """Plan the shards of one vertical model, and write its bundle.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        vertical_model: The settings of the model, one of those that `join_examples` returns.
        vertical: A reference to the model, as `train_vertical` returns it.

    Returns:
        bundle: Where the bundle is, its digest, and the number of its shards.
        Output: A reference to the bundle ({uri, digest}); {} if the model has learned nothing yet.
    """
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    name = VerticalConfig.parse(vertical_model, source="vertical_model").name
    with running(f"bundle {name}") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.bundling.stage import headline, make_bundle
        from exfm_components import layout
        from exfm_components.artifacts import write_empty, write_ref
        from exfm_components.run_config import RunConfig

        if not vertical:
            write_empty(bundle)
            stage.done(f"{name} has learned nothing yet: there is nothing to bundle")
            return {}
        manifest = make_bundle(
            RunConfig.parse(run, source="run").bundle,
            vertical=Ref.parse(vertical, source="vertical"),
            out=layout.bundles(root, name),
        )
        ref = ref_to(layout.bundle(root, name, manifest.bundle_id))
        write_ref(ref, bundle, name=name, shards=manifest.plan.num_shards)
        stage.done(headline(manifest))
        return ref.to_dict()
