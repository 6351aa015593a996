"""Settings of a comparison."""

from collections import Counter
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from exfm.config import Config, like
from exfm.distill import config as distill

LABEL: Final = "label"
"""The method that all others are compared with."""

KD: Final = "kd"
"""The method that auxiliary heads and adapters are compared with."""

AUTO: Final = "auto"
"""The default method, whose gain is held against the foundation model's cost."""

SELF: Final = "self"
"""The control: `kd` from a teacher of the vertical model's own size, which learned from labels only."""

UNTAUGHT: Final = (LABEL, SELF)
"""Methods that do not use the foundation model."""

Method = Literal[distill.Method, "self"]


def _require_label(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """Return methods that can be compared, or none."""
    twice = [method for method, count in Counter(methods).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} is there more than once; leave one of them")
    if methods and LABEL not in methods:
        raise ValueError(f"{LABEL} is missing, which the others are compared with; add it")
    if len(methods) == 1:
        raise ValueError(f"{LABEL} alone compares nothing; add another method, such as auto")
    return methods


Methods = Annotated[tuple[Method, ...], AfterValidator(_require_label)]


class Setting(Config):
    """The settings of a method that are tuned."""

    weight: float
    """Weight of the pseudo-labels' loss; 0 with `label`."""
    learning_rate: float
    """Learning rate of Adam on the dense network."""


class TeacherVariant(Config):
    """A teacher made from the run's foundation model by changing something.

    Of several changes, `noise` comes first, then `factor`, then `shuffled`.
    """

    name: Annotated[
        str,
        like("[a-z0-9][a-z0-9._-]{0,29}", "a lower-case letter or digit, then such, dots, dashes; at most 30 in all"),
    ]
    """Name in the comparison: lower-case letters, digits, dots, underscores and dashes, 30 at most."""
    age: Annotated[int, Field(ge=0, le=1000)] = 0
    """Windows by which the snapshot that scores a window is older than the run's; 0 to 1,000. It needs the states of
    all windows, `das.keep_snapshots: 0`. 0: the run's."""
    size: Annotated[float, Field(ge=0, le=64)] = 0
    """Another foundation model teaches, trained for the comparison, with that many times the tables' `dim` and the
    layers' units; 0 to 64. 0: the run's, as it is."""
    factor: Annotated[float, Field(gt=0, le=100)] = 1
    """Factor on the pseudo-labels, up to a probability of 1; more than 0, at most 100. 1: none."""
    noise: Annotated[float, Field(ge=0, le=100)] = 0
    """Standard deviation of what is added to the pseudo-labels' logits; 0 to 100. 0: nothing."""
    shuffled: bool = False
    """Whether each window's pseudo-labels are permuted among its examples, so that they carry no information."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of `noise` and of `shuffled`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size and self.age:
            raise ValueError(
                f"teacher {self.name!r} has a size and an age, but a foundation model of another size leaves no "
                "snapshots; set one of the two"
            )
        if not self.changed():
            raise ValueError(f"teacher {self.name!r} changes nothing; set age, size, factor, noise or shuffled")
        return self

    def changed(self) -> tuple[str, ...]:
        """Return the names of the settings that make it another teacher than the run's."""
        unchanged = TeacherVariant.model_construct(name=self.name)
        keys = ("age", "size", "factor", "noise", "shuffled")
        return tuple(key for key in keys if getattr(self, key) != getattr(unchanged, key))


class ComparisonConfig(Config):
    """How methods are compared on a run's examples."""

    vertical_models: tuple[str, ...] = ()
    """Names of the run's vertical models that are compared; empty: all."""
    methods: Annotated[Methods, Field(min_length=2)] = (
        LABEL, "kd", "ah", "sa", "ah+sa", "auto", SELF,
    )  # fmt: skip
    """Methods, each once; `label` is one of them. `self` is the control: `kd` from a label-only teacher of the vertical
    model's own size, with another seed."""
    teachers: tuple[TeacherVariant, ...] = ()
    """Teachers beside the run's own, each compared by all methods but `label` and `self`; empty: none. Each takes about
    as long as the run's own."""
    cold_start: tuple[str, ...] = ()
    """Features, of kind `single`, for each of which there are also figures of examples whose id came first in their own
    window, in the vertical model's slice of the log, and of those whose id an earlier window had; empty: none."""
    label_only_sizes: tuple[Annotated[int, Field(ge=2, le=64)], ...] = ()
    """Sizes, times the vertical model's, of label-only models whose gain and CPU time are held against the foundation
    model's, which is trained once more for that; 2 to 64. Empty: nothing is said of cost."""
    num_seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """Models of each method, from that many initial parameters: the vertical model's `seed` and those after it; 1 to
    100. With 1 the intervals do not have the spread of seeds."""
    tuning_windows: Annotated[int, Field(ge=1)] = 8
    """First windows, by which each method's weight and learning rate are chosen, and which no figure counts; more than
    the vertical models' `training.warmup_windows`. If there is nothing to choose, figures count from the warm-up on."""
    weights: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (1.0, 3.0, 9.0)
    """Weights of the pseudo-labels' loss that are tried with every method but `label`; more than 0, at most 100. Empty:
    the vertical model's own."""
    learning_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.001, 0.003)
    """Learning rates of Adam on the dense network that are tried with every method; more than 0, at most 1. Empty: the
    vertical model's own."""
    num_bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Samples that each interval is made of; 100 to 100,000."""
    bootstrap_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of these samples."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = {
            key: getattr(self, key)
            for key in ("vertical_models", "weights", "learning_rates", "cold_start", "label_only_sizes")
        }
        for key, values in (given | {"teachers": [teacher.name for teacher in self.teachers]}).items():
            twice = [str(value) for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"{key}: {', '.join(twice)} is there more than once; leave one of them")
        if self.label_only_sizes and AUTO not in self.methods:
            raise ValueError(f"methods: {AUTO} is missing, which label_only_sizes are compared with; add it")
        return self

    @property
    def is_tuned(self) -> bool:
        """Return whether a method has several settings, of which the first windows choose one."""
        return len(self.weights) > 1 or len(self.learning_rates) > 1
