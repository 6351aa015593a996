"""A run's data augmentation system, and the foundation models that it may ask."""

from exfm.artifact.storage import MANIFEST, Ref, ref_to
from exfm.artifact.stores import exists, join
from exfm.das.log_tables import Das
from exfm_components import layout
from exfm_components.run_config import RunConfig


def das_of(run: RunConfig) -> Das:
    """Return the system of a run."""
    return Das(root=run.root, schema=run.feature_schema, window_length=run.window_length, config=run.das)


def published(run: RunConfig) -> dict[str, Ref | None]:
    """Return the run's foundation models by name; None: it is not trained yet."""
    places = {model.name: layout.foundation(run.root, model.name) for model in run.foundation_models}
    return {name: ref_to(uri) if exists(join(uri, MANIFEST)) else None for name, uri in places.items()}
