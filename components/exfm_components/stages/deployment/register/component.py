"""The component register."""

from exfm_components.stages import component


@component
def register(
    root: str, foundations: list[dict], verticals: list[dict], bundles: list[dict], judgements: list[dict]
) -> list[dict]:
    """Add every model that has something new to the registry: a vertical model with its bundle and judgement.

    Args:
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        foundations: References to foundation models, as `train_foundation` returns them.
        verticals: References to vertical models, as `train_vertical` returns them.
        bundles: References to bundles, as `make_bundle` returns them.
        judgements: Judgements of the vertical models, as `judge` returns them.

    Returns:
        Output: What became of each vertical model.
    """
    from exfm_components.progress import running

    with running("register") as stage:
        from exfm.registry.foundations import register_foundations
        from exfm.registry.promotion import Judgement
        from exfm.registry.registration import headline, register_all
        from exfm_components.artifacts import refs

        registrations = register_all(
            root=root,
            models=refs(verticals, source="verticals"),
            bundles=refs(bundles, source="bundles"),
            judgements=[Judgement.parse(item, source="judgements") for item in judgements],
        )
        teachers = register_foundations(root=root, models=refs(foundations, source="foundations"))
        stage.done("; ".join(filter(None, [headline(registrations), ", ".join(map(str, teachers))])))
        return [registration.to_dict() for registration in registrations]
