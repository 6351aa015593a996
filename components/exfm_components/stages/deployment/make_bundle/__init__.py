"""Plan the shards of one vertical model, and write its bundle."""

from exfm_components.stages.deployment.make_bundle.component import make_bundle

__all__ = ["make_bundle"]
