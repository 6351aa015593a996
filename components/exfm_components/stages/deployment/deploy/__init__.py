"""Roll out every vertical model that passes against its champion."""

from exfm_components.stages.deployment.deploy.component import deploy

__all__ = ["deploy"]
