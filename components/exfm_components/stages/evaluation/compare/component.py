"""The component compare."""

from kfp import dsl

from exfm_components.stages import component


@component
def compare(run: dict, root: str, page: dsl.Output[dsl.HTML]) -> str:
    """Train every vertical model by several methods, to measure what distillation gains.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.

    Returns:
        page: A page with what each method gains.
        Output: The URI of the figures; empty if there are too few windows yet.
    """
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
