"""What a front door hands to a model and takes back: the same for gRPC and REST."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from exfm.errors import DeadlineError, RequestError
from exfm.features.oip import Tensor, chosen_outputs
from exfm.serving.profiler.profiler import Stopwatch

Parameter = bool | int | str
"""A parameter of a request or an answer: gRPC's form of the protocol has no other types."""

Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float16]
"""An output's values: scores are float32, a shard's sums may be halves."""

TIMEOUT = "timeout"
"""The request parameter in which Triton's clients send the time that they allow, in microseconds."""

MAX_ALLOWED_S = 600
"""As long as `deadlines.default_ms` may be: who allows more gets this."""


@dataclass(frozen=True)
class Deadline:
    """The moment from which an answer is of no use."""

    at_s: float
    """On the clock of time.monotonic."""
    allowed_ms: float
    """The time there was at first."""

    @classmethod
    def after(cls, allowed_s: float) -> Self:
        """Return the deadline `allowed_s` from now."""
        return cls(at_s=time.monotonic() + allowed_s, allowed_ms=allowed_s * 1_000)

    def remaining_s(self) -> float:
        """Return the time left, 0 or more."""
        return max(0.0, self.at_s - time.monotonic())

    def share(self, share: float) -> "Deadline":
        """Return the deadline at which this share of the time left is used up."""
        return Deadline.after(share * self.remaining_s())

    def check(self, doing: str) -> None:
        """Return if there is time left.

        Raises: DeadlineError, which says what was under way.
        """
        if self.remaining_s() == 0:
            raise DeadlineError(f"the {self.allowed_ms:.0f} ms allowed passed while {doing}; allow more")


@dataclass(frozen=True)
class Call:
    """A decoded request to a model."""

    tensors: Mapping[str, Tensor]
    deadline: Deadline
    model_version: str
    """The bundle id that the request is for; empty leaves the choice to the server."""
    outputs: tuple[str, ...] = ()
    """Those that the client wants, by name; none means all."""
    stopwatch: Stopwatch | None = None
    """What takes its time, if its client wants to know."""


@dataclass(frozen=True)
class Answer:
    """A model's answer."""

    outputs: Mapping[str, Numbers]
    parameters: Mapping[str, Parameter]

    def only(self, names: Sequence[str]) -> "Answer":
        """Return the answer with the outputs that a client asked for; none asked for means all.

        Raises: RequestError if there is no such output.
        """
        chosen = chosen_outputs(names, list(self.outputs))
        return Answer(outputs={name: self.outputs[name] for name in chosen}, parameters=self.parameters)

    def telling(self, key: str, value: Parameter) -> "Answer":
        """Return the answer with another parameter."""
        return Answer(outputs=self.outputs, parameters={**self.parameters, key: value})


def check_num_values(num_values: int, *, max_ids: int) -> None:
    """Return if a request's inputs hold no more values than a server's setting `max_ids` allows.

    Raises: RequestError.
    """
    if num_values > max_ids:
        raise RequestError(f"the inputs hold {num_values} values; max_ids is {max_ids}: ask in parts")


def deadline_of(timeout_us: Any, *, transport_s: float | None, default_ms: int, came_s: float) -> Deadline:
    """Return the earlier of a request's two deadlines, or the default if it has neither.

    `timeout_us` is the parameter `timeout` as it came, None or 0 where there is none; `transport_s` the time that
    gRPC left when the request came, at `came_s` on the clock of time.monotonic.

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
