"""How a candidate answers logged requests beside its champion, and the bounds of that."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from exfm.config import Config
from exfm.registry.promotion import Check, Verdict

TOP = 10
"""Candidates of a request that count as its best ones."""

Share = Annotated[float, Field(ge=0, le=1)]


class ReplayConfig(Config):
    """Which requests are replayed before a rollout, and the bounds of what changes."""

    log: str = ""
    """Folder or s3:// URL that exporters of request logs upload to, their `--to`; empty: no replay."""
    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Requests of a model that are replayed, the newest; 1 to 100,000."""
    max_top_ten_change: Share = 1.0
    """Share of the ten best of a request that are not among the champion's ten best, as a mean over requests with more
    than ten candidates; 0 to 1. 0: none. 1: no bound."""
    max_reordered: Share = 1.0
    """Share of requests whose ten best differ from the champion's, or come in another order; 0 to 1. 0: none. 1: no
    bound."""
    max_score_shift: Share = 1.0
    """Mean distance of scores from the champion's; 0 to 1. 0: none. 1: no bound."""


class TaskReplay(Config):
    """One task's scores, compared with the champion's; a request of several users counts once for each."""

    task: str
    not_numbers: Share
    """Share of the candidate's scores that are no number. If there are any, the figures below are None."""
    top_ten_change: Share | None = None
    """None also if no request has more than ten candidates."""
    reordered: Share | None = None
    """None also if no request has two candidates."""
    mean_shift: Share | None = None
    p99_shift: Share | None = None
    """99th percentile of the distance of scores."""


class Replay(Config):
    """How a candidate answers logged requests beside its champion."""

    num_requests: int = 0
    num_scores: int = 0
    """Of each task."""
    first: str = ""
    """When the first of these requests arrived, as people write it; empty: there is none."""
    last: str = ""
    """When the last one arrived, likewise."""
    tasks: tuple[TaskReplay, ...] = ()
    """Tasks that both have."""
    problem: str = ""
    """Why no request was replayed, and what to do; empty: requests were."""

    def __str__(self) -> str:
        """Return one line about the requests."""
        if self.problem:
            return f"no request was replayed: {self.problem}"
        span = f"{self.first} to {self.last}"
        return f"{self.num_requests:,} requests of {span} were replayed, with {self.num_scores:,} candidates"


def with_replay(verdict: Verdict, found: Replay, bounds: ReplayConfig) -> Verdict:
    """Return a verdict with a replay's figures; what cannot be checked fails if it has a bound."""
    return replace(verdict, checks=(*verdict.checks, *checks(found, bounds)), notes=(*verdict.notes, str(found)))


def checks(found: Replay, bounds: ReplayConfig) -> Iterator[Check]:
    """Yield a replay's figures with their bounds; a figure that is not defined only if it has a bound."""
    for task in found.tasks or (TaskReplay(task="all tasks", not_numbers=0),):
        if found.tasks:
            yield Check(task.task, "scores that are no number", task.not_numbers, 0.0)
        for figure, value, bound in (
            ("change of the top ten", task.top_ten_change, bounds.max_top_ten_change),
            ("requests in another order", task.reordered, bounds.max_reordered),
            ("mean shift of scores", task.mean_shift, bounds.max_score_shift),
            ("99th percentile of shifts", task.p99_shift, 1.0),
        ):
            if value is not None or bound < 1:
                yield Check(task.task, figure, value, bound)
