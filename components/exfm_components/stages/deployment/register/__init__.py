"""Add every vertical model that has something new to the registry, with its bundle and judgement."""

from exfm_components.stages.deployment.register.component import register

__all__ = ["register"]
