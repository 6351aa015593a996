"""Settings of the pipeline's last step, apart from it: to check them loads neither MLflow nor kubernetes."""

from typing import Annotated

from pydantic import StringConstraints

from exfm.config import Config
from exfm.deploy.config import DeployConfig
from exfm.registry.promotion import PromotionRule


class DeploymentConfig(Config):
    """Whether and how a run's vertical models are deployed."""

    settings: DeployConfig = DeployConfig()
    promotion: PromotionRule = PromotionRule()
    served_root: Annotated[str, StringConstraints(pattern=r"^$|^(pvc|s3)://[^/]+(/.*)?$")] = ""
    """URL of the run's root for serving pods, where the root is a folder: pvc://CLAIM/PATH. Empty: the root itself."""
