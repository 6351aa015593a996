"""Several ranks with an object of each kind: a method that the leader calls of its own, the others call of theirs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from exfm.models.ranks import ALONE, Ranks

P = ParamSpec("P")
R = TypeVar("R")
MemberT = TypeVar("MemberT", bound="CrewMember")


@dataclass(frozen=True)
class _Make:
    """A command: make an object."""

    kind: "type[CrewMember]"
    args: tuple[Any, ...]


@dataclass(frozen=True)
class _Call:
    """A command: call a method of an object, by its place in the order in which objects were made."""

    place: int
    method: str
    args: tuple[Any, ...]


class Crew:
    """Ranks that do what their leader does."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self._num_made = 0

    def join(self, kind: "type[CrewMember]", *args: object) -> int:
        """Have the others make such an object, too, and return its place."""
        if self.ranks.size == 1:
            return 0
        self._send(_Make(kind, args))
        self._num_made += 1
        return self._num_made - 1

    def call(self, place: int, method: str, *args: object) -> None:
        """Have the others call a method of their object in this place."""
        self._send(_Call(place, method, args))

    def end(self) -> None:
        """Let the others end."""
        self._send(None)

    def follow(self) -> None:
        """Do what the leader does, until it lets the others end.

        Raises: what the leader's calls raise; RuntimeError if another rank is lost.
        """
        objects: list[CrewMember] = []
        while (command := self.ranks.of_leader(None)) is not None:
            match command:
                case _Make(kind, args):
                    objects.append(kind(*args, self))
                case _Call(place, method, args):
                    getattr(objects[place], method)(*args)

    def _send(self, command: _Make | _Call | None) -> None:
        if self.ranks.leads:
            self.ranks.of_leader(command)


SOLO = Crew()
"""A process that is alone."""


class CrewMember:
    """What each rank has one of; its constructor's last argument is the crew."""

    def __init__(self, crew: Crew, *args: object) -> None:
        """Join the crew; `args` are the constructor's other arguments, which can be pickled."""
        self._crew = crew
        self._place = crew.join(type(self), *args)


def by_all(method: Callable[Concatenate[MemberT, P], R]) -> Callable[Concatenate[MemberT, P], R]:
    """Return a method that, where the leader calls it, all ranks call with the same arguments, given by position."""

    @wraps(method)
    def call(self: MemberT, /, *args: P.args, **kwargs: P.kwargs) -> R:
        assert not kwargs, f"{method.__name__}: arguments are given by position"
        self._crew.call(self._place, method.__name__, *args)
        return method(self, *args, **kwargs)

    return call
