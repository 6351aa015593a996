"""The components that make models: foundation models, vertical models and their bundles, and compare methods."""

from kfp import dsl

from exfm_components.stages import component


@component
def train_foundation(
    root: str,
    foundation_model: dict,
    log: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Train one foundation model on all domains' stream."""
    from exfm.foundation.config import FoundationConfig
    from exfm_components.progress import running

    foundation = FoundationConfig.parse(foundation_model, source="foundation_model")
    with running(f"train-fm {foundation.name}") as stage:
        from exfm.artifact.storage import ref_to
        from exfm.foundation.stage import train_foundation
        from exfm_components import layout
        from exfm_components.artifacts import read_ref, write_model

        manifest = train_foundation(
            foundation,
            events=read_ref(log.path),
            labels=read_ref(labels.path),
            out=layout.foundation(root, foundation.name),
            on_window=stage.walked,
        )
        ref = ref_to(layout.foundation(root, foundation.name))
        write_model(manifest, ref, model=model, metrics=metrics)
        stage.done(manifest.headline())
        return ref.to_dict()


@component
def train_vertical(
    run: dict,
    root: str,
    vertical_model: dict,
    examples: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Train one vertical model with its teachers' pseudo-labels."""
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    vertical = VerticalConfig.parse(vertical_model, source="vertical_model")
    with running(f"train-vm {vertical.name}") as stage:
        from exfm.artifact.storage import ref_to
        from exfm.distill.stage import train_vertical
        from exfm_components import layout
        from exfm_components.artifacts import read_ref, write_model
        from exfm_components.run_config import RunConfig

        manifest = train_vertical(
            vertical,
            teachers=RunConfig.parse(run, source="run").teachers_of(vertical),
            examples=read_ref(examples.path),
            out=layout.vertical(root, vertical.name),
            on_window=stage.walked,
        )
        ref = ref_to(layout.vertical(root, vertical.name))
        write_model(manifest, ref, model=model, metrics=metrics)
        stage.done(manifest.headline())
        return ref.to_dict()


@component
def make_bundle(run: dict, root: str, vertical_model: dict, vertical: dict, bundle: dsl.Output[dsl.Model]) -> dict:
    """Plan one vertical model's shards and write its bundle, below its id."""
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    name = VerticalConfig.parse(vertical_model, source="vertical_model").name
    with running(f"bundle {name}") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.bundling.stage import headline, make_bundle
        from exfm_components import layout
        from exfm_components.artifacts import write_ref
        from exfm_components.run_config import RunConfig

        manifest = make_bundle(
            RunConfig.parse(run, source="run").bundle,
            vertical=Ref.parse(vertical, source="vertical"),
            out=layout.bundles(root, name),
        )
        ref = ref_to(layout.bundle(root, name, manifest.bundle_id))
        write_ref(ref, bundle, name=name, shards=manifest.plan.num_shards)
        stage.done(headline(manifest))
        return ref.to_dict()


@component
def compare(run: dict, root: str, examples: dsl.Input[dsl.Dataset], page: dsl.Output[dsl.HTML]) -> str:
    """Train every vertical model by several methods, for what distillation gains; return the URI of the figures."""
    from exfm_components.progress import running

    with running("compare") as stage:
        from pathlib import Path

        from exfm.artifact.stores import read_file
        from exfm_components import layout
        from exfm_components.artifacts import read_ref
        from exfm_components.comparison import compare_methods
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run, source="run")
        found = compare_methods(
            config.step_comparison(), config, root=root, examples=read_ref(examples.path), on_window=stage.walked
        )
        Path(page.path).write_bytes(read_file(layout.comparison_page(root)))
        stage.done(found.headline())
        return layout.comparison(root)
