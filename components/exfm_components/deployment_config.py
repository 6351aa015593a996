"""Settings of the pipeline's last step, apart from it: to check them loads neither MLflow nor kubernetes."""

from typing import Annotated

from exfm.config import Config, like
from exfm.deploy.config import DeployConfig
from exfm.registry.promotion import PromotionRule


class DeploymentConfig(Config):
    """Whether and how a run's vertical models are deployed."""

    settings: DeployConfig = DeployConfig()
    promotion: PromotionRule = PromotionRule()
    served_root: Annotated[
        str, like("((pvc|s3)://[^/]+(/.*)?)?", "pvc://CLAIM/PATH, s3://BUCKET/PREFIX, or nothing")
    ] = ""
    """URL of the run's root for serving pods, where the root is a folder: pvc://CLAIM/PATH. Empty: the root itself."""
