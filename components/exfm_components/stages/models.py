"""The components that make models: foundation models, vertical models and their bundles, and compare methods."""

from kfp import dsl

from exfm_components.stages import component


@component
def train_foundation(
    run: dict,
    root: str,
    foundation_model: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Have one foundation model score complete windows, which gives pseudo-labels, and learn labelled ones.

    Returns {} of one that has learned nothing yet, or that another run trains: its own run may publish it again before
    the steps after this one read it.
    """
    from exfm.foundation.config import FoundationConfig
    from exfm_components.progress import running

    foundation = FoundationConfig.parse(foundation_model, source="foundation_model")
    with running(f"train-fm {foundation.name}") as stage:
        from exfm.das.advance import teach
        from exfm.training.line import Line
        from exfm_components.data_augmentation import das_of, work
        from exfm_components.lines import foundation_model as model_of
        from exfm_components.lines import write_model, write_published
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das, teacher = das_of(config), model_of(config, foundation)
        num_done = work(teach(das, foundation.name, teacher), stage.report)
        if isinstance(teacher, Line):
            ref, told = write_model(das, teacher, model=model, metrics=metrics)
        else:
            ref, told = {}, write_published(das, foundation, teacher, num_done=num_done, model=model)
        stage.done(told)
        return ref


@component
def train_vertical(
    run: dict,
    root: str,
    vertical_model: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Have one vertical model predict, then learn, its domains' examples with its teachers' pseudo-labels."""
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    vertical = VerticalConfig.parse(vertical_model, source="vertical_model")
    with running(f"train-vm {vertical.name}") as stage:
        from exfm.das.advance import learn
        from exfm_components.data_augmentation import das_of, work
        from exfm_components.lines import vertical_model as line_of
        from exfm_components.lines import write_model
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das, line = das_of(config), line_of(config, vertical)
        work(learn(das, line), stage.report)
        ref, told = write_model(das, line, model=model, metrics=metrics)
        stage.done(told)
        return ref


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


@component
def compare(run: dict, root: str, page: dsl.Output[dsl.HTML]) -> str:
    """Train every vertical model by several methods, for what distillation gains; return the URI of the figures."""
    from exfm_components.progress import running

    with running("compare") as stage:
        from pathlib import Path

        from exfm.artifact.stores import read_file
        from exfm_components import layout
        from exfm_components.comparison import compare_methods, why_not_yet
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        if reason := why_not_yet(config):
            Path(page.path).write_text(f"Not compared yet: {reason}.")
            stage.done(f"not compared yet: {reason}")
            return ""
        found = compare_methods(config.step_comparison(), config, root=root, on_window=stage.walked)
        Path(page.path).write_bytes(read_file(layout.comparison_page(root)))
        stage.done(found.headline())
        return layout.comparison(root)
