"""Settings of the pipeline's last step, apart from it: to check them loads neither MLflow nor kubernetes."""

from pathlib import Path
from typing import Annotated, Self

from exfm.artifact.stores import resolve_path
from exfm.config import Config, like
from exfm.deploy.config import DeployConfig
from exfm.registry.promotion import PromotionRule
from exfm.registry.replay import ReplayConfig


class DeploymentConfig(Config):
    """Whether and how a run's vertical models are deployed."""

    settings: DeployConfig = DeployConfig()
    promotion: PromotionRule = PromotionRule()
    replay: ReplayConfig = ReplayConfig()
    served_root: Annotated[
        str, like("((pvc|s3)://[^/]+(/.*)?)?", "pvc://CLAIM/PATH, s3://BUCKET/PREFIX, or nothing")
    ] = ""
    """URL of the run's root for serving pods, where the root is a folder: pvc://CLAIM/PATH. Empty: the root itself."""

    def resolved(self, base: Path) -> Self:
        """Return the settings with local paths made absolute; relative ones start at `base`."""
        if not self.replay.log:
            return self
        log = resolve_path(self.replay.log, base=base)
        return self.model_copy(update={"replay": self.replay.model_copy(update={"log": log})})
