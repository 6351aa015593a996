"""Several ranks with objects of one kind each: what the leader calls of its own, the others call of theirs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from exfm.models.ranks import ALONE, Ranks

P = ParamSpec("P")
R = TypeVar("R")
OfCrewT = TypeVar("OfCrewT", bound="OfCrew")


@dataclass(frozen=True)
class _Make:
    """Make an object."""

    kind: "type[OfCrew]"
    args: tuple[Any, ...]


@dataclass(frozen=True)
class _Call:
    """Call a method of an object, by its place in the order in which they were made."""

    place: int
    method: str
    args: tuple[Any, ...]


class Crew:
    """Ranks that do what their leader does."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self._num_made = 0

    def join(self, kind: "type[OfCrew]", *args: object) -> int:
        """Have the others make such an object, too, and return its place."""
        if self.ranks.size == 1:
            return 0
        self._tell(_Make(kind, args))
        self._num_made += 1
        return self._num_made - 1

    def call(self, place: int, method: str, *args: object) -> None:
        """Have the others call a method of their object in this place."""
        self._tell(_Call(place, method, args))

    def end(self) -> None:
        """Let the others end."""
        self._tell(None)

    def follow(self) -> None:
        """Do what the leader does, until it lets the others end.

        Raises: what the leader's calls raise; RuntimeError if another rank is lost.
        """
        made: list[OfCrew] = []
        while (told := self.ranks.of_leader(None)) is not None:
            match told:
                case _Make(kind, args):
                    made.append(kind(*args, self))
                case _Call(place, method, args):
                    getattr(made[place], method)(*args)

    def _tell(self, what: _Make | _Call | None) -> None:
        if self.ranks.leads:
            self.ranks.of_leader(what)  # which gives it to the others


SOLO = Crew()
"""A process that is alone."""


class OfCrew:
    """What each rank has one of; its constructor's last argument is the crew."""

    def __init__(self, crew: Crew, *args: object) -> None:
        """Join the crew; `args` are the constructor's others, which can be pickled."""
        self._crew = crew
        self._place = crew.join(type(self), *args)


def by_all(method: Callable[Concatenate[OfCrewT, P], R]) -> Callable[Concatenate[OfCrewT, P], R]:
    """Return a method that, where the leader calls it, all ranks call with the same arguments, by position."""

    @wraps(method)
    def call(self: OfCrewT, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._crew.call(self._place, method.__name__, *args)
        return method(self, *args, **kwargs)

    return call
