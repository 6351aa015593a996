"""A request to a model and its answer, independent of the protocol."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from exfm.errors import DeadlineError, RequestError
from exfm.features.oip import Tensor, chosen_outputs
from exfm.serving.profiler.profiler import Profiler

Parameter = bool | int | str
"""A parameter of a request or an answer: the gRPC form has no other types."""

Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float16]
"""An output's values: scores are float32; a shard's pooled embeddings are float32 or float16."""

TIMEOUT = "timeout"
"""The request parameter in which Triton's clients send their timeout, in microseconds."""

SHOWN = "shown"
"""The request parameter that says how many candidates of each user the client shows."""

MAX_ALLOWED_S = 600
"""Longest time that a request gets, as for `deadlines.default_ms`."""


@dataclass(frozen=True)
class Deadline:
    """The moment until which a client waits for its answer."""

    at_s: float
    """Time of time.monotonic, in seconds."""
    allowed_ms: float
    """The time allowed at first, in milliseconds."""

    @classmethod
    def after(cls, allowed_s: float) -> Self:
        """Return the deadline `allowed_s` from now."""
        return cls(at_s=time.monotonic() + allowed_s, allowed_ms=allowed_s * 1_000)

    def remaining_s(self) -> float:
        """Return the time left, 0 or more."""
        return max(0.0, self.at_s - time.monotonic())

    def share(self, share: float) -> "Deadline":
        """Return an earlier deadline, after this share of the time left."""
        return Deadline.after(share * self.remaining_s())

    def check(self, doing: str) -> None:
        """Return if there is time left.

        Raises: DeadlineError, which says what the time passed in, `doing`.
        """
        if self.remaining_s() == 0:
            raise DeadlineError(f"the {self.allowed_ms:.0f} ms allowed passed while {doing}; allow more")


@dataclass(frozen=True)
class Call:
    """A decoded request to a model."""

    tensors: Mapping[str, Tensor]
    deadline: Deadline
    model_version: str
    """The bundle id that the request is for; empty: any."""
    outputs: tuple[str, ...] = ()
    """Names of the requested outputs; none: all."""
    profiler: Profiler | None = None
    """Measures the request, if it is traced."""
    num_shown: int | None = None
    """Candidates of each user that the client shows, the best ones by the first task's score; None: it does not say."""


@dataclass(frozen=True)
class Answer:
    """A model's answer."""

    outputs: Mapping[str, Numbers]
    parameters: Mapping[str, Parameter]

    def only(self, names: Sequence[str]) -> "Answer":
        """Return the answer with the requested outputs; no names: all.

        Raises: RequestError if there is no such output.
        """
        chosen = chosen_outputs(names, list(self.outputs))
        return Answer(outputs={name: self.outputs[name] for name in chosen}, parameters=self.parameters)

    def with_parameter(self, key: str, value: Parameter) -> "Answer":
        """Return the answer with one more parameter."""
        return Answer(outputs=self.outputs, parameters={**self.parameters, key: value})


def check_num_values(num_values: int, *, max_ids: int) -> None:
    """Return if a request's inputs hold no more values than a server's setting `max_ids` allows.

    Raises: RequestError.
    """
    if num_values > max_ids:
        raise RequestError(f"the inputs hold {num_values} values; max_ids is {max_ids}: send it in parts")


def num_shown_of(value: Any) -> int | None:
    """Return a request's unchecked parameter `shown`; None: there is none.

    Raises: RequestError if it is not a number of candidates.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RequestError(f"parameter {SHOWN!r} is {value!r:.40}, expected a whole number of candidates, 0 or more")
    return value


def deadline_of(timeout_us: Any, *, transport_s: float | None, default_ms: int, came_s: float) -> Deadline:
    """Return the earlier of a request's two deadlines, or the default if it has neither.

    `timeout_us` is the unchecked parameter `timeout`; None or 0 if there is none. `transport_s` is the time left by
    gRPC's deadline when the request arrived, at `came_s` of time.monotonic.

    Raises: RequestError if `timeout_us` is not a number of microseconds.
    """
    limits_s = [] if transport_s is None else [max(0.0, transport_s)]
    if timeout_us is not None:
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
            raise RequestError(f"parameter {TIMEOUT!r} is {timeout_us!r:.40}, expected whole microseconds, 0 or more")
        if timeout_us > 0:
            limits_s.append(min(timeout_us, MAX_ALLOWED_S * 10**6) / 1e6)
    allowed_s = min([MAX_ALLOWED_S, *limits_s]) if limits_s else default_ms / 1_000
    return Deadline(at_s=came_s + allowed_s, allowed_ms=allowed_s * 1_000)
