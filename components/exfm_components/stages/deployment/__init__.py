"""Components that release models: bundle, registry, deployment."""

from exfm_components.stages.deployment.deploy import deploy
from exfm_components.stages.deployment.make_bundle import make_bundle
from exfm_components.stages.deployment.register import register

__all__ = ["deploy", "make_bundle", "register"]
