"""Compare every vertical model with its champion, on windows that the champion had not learned."""

from exfm_components.stages.evaluation.judge.component import judge

__all__ = ["judge"]
