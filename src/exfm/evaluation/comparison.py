"""What a comparison found: every method and teacher of every vertical model, each figure with its interval."""

from collections.abc import Iterator, Sequence
from typing import Literal, Self

from exfm.artifact.manifest import parse_json
from exfm.artifact.storage import Ref
from exfm.artifact.stores import read_file
from exfm.config import Config
from exfm.evaluation.config import LABEL, ComparisonConfig, Method, Setting
from exfm.metrics.intervals import Interval
from exfm.tables.reference import TableRef


class MethodQuality(Config):
    """The quality of one method's predictions of one task, mean over seeds; None where it is not defined."""

    normalized_entropy: Interval | None
    auc: Interval | None
    calibration: Interval | None
    """Sum of predictions over number of positives; 1 is right."""
    delta_ne: Interval | None = None
    """Normalized entropy less that of `label`; less than 0 is better. None of `label` itself."""
    delta_auc: Interval | None = None
    """AUC less that of `label`; more than 0 is better. None of `label` itself."""
    delta_ne_of_kd: Interval | None = None
    """Normalized entropy less that of `kd`; less than 0 is better. None of `kd` itself, or without it."""
    transfer_ratio: Interval | None = None
    """Share of the teacher's lead over `label` that the method reaches. None where the interval of that lead
    has 0 in it."""


class LargerQuality(MethodQuality):
    """The quality of a label-only model that is larger than the vertical model."""

    delta_ne_of_auto: Interval | None
    """Normalized entropy less that of `auto` at the vertical model's own size; less than 0 is better."""


class ModelCost(Config):
    """The parameters and the CPU time of one model."""

    num_parameters: int
    """How many numbers serving needs."""
    training_cpu_s: float
    """CPU-seconds of learning all windows."""
    scoring_cpu_s: float
    """CPU-seconds of scoring all windows, once each."""

    def cpu_s(self) -> float:
        """Return the CPU-seconds of both."""
        return self.training_cpu_s + self.scoring_cpu_s


class TeacherComparison(Config):
    """One teacher of one task, and the methods by which it taught."""

    pseudo_labels: MethodQuality | None
    """The quality of the teacher's pseudo-labels; None where an example has none."""
    methods: dict[Method, MethodQuality]
    """The methods' qualities. `label` and `self`, which no teacher changes, are with the run's own teacher."""


class TaskComparison(Config):
    """One task of one vertical model; every figure is of the same examples."""

    num_examples: int
    """Number of examples with a known label."""
    base_rate: float | None
    """Weighted share of positives; None where there is no example."""
    teachers: dict[str, TeacherComparison]
    """By the teachers' names, the run's own first; empty where no label is known."""
    references: dict[str, MethodQuality] = {}
    """The qualities of the reference lines, by their names; empty where no label is known."""
    cold_start: dict[str, "ColdStart"] = {}
    """The same figures for new and for known ids, by feature."""
    larger: dict[int, LargerQuality] = {}
    """The qualities of larger label-only models, by size."""

    def own(self) -> TeacherComparison:
        """Return what the run's own teacher did: nothing where no label is known."""
        return next(iter(self.teachers.values()), TeacherComparison(pseudo_labels=None, methods={}))


class ColdStart(Config):
    """Figures by whether an earlier window of the vertical model's slice of the log had an example's id.

    An example without an id is in neither part. The run's own teacher alone is compared.
    """

    new: TaskComparison
    """Examples whose id came first in their own window."""
    known: TaskComparison
    """Examples whose id an earlier window had."""


class LargerLabelOnly(Config):
    """A label-only model that is larger than the vertical model."""

    setting: Setting
    """What the tuning windows chose."""
    cost: ModelCost
    """The cost of one model, mean over seeds."""


class VerticalComparison(Config):
    """The comparison of all methods and teachers of one vertical model."""

    name: str
    windows: tuple[int, ...]
    """Indices of the windows that the figures are of."""
    first_window: str
    """Start of the first of them, as people write it."""
    last_window: str
    """Start of the last of them, likewise."""
    settings: dict[str, dict[Method, Setting]]
    """What the tuning windows chose, by teacher and method; the run's own teacher comes first."""
    costs: dict[Method, ModelCost] = {}
    """The cost of one model, mean over seeds, by method, with the run's own teacher."""
    larger: dict[int, LargerLabelOnly] = {}
    """The larger label-only models, by size."""
    tasks: dict[str, TaskComparison]

    def own(self) -> str:
        """Return the name of the run's own teacher."""
        return next(iter(self.settings))

    def own_settings(self) -> dict[Method, Setting]:
        """Return those of the run's own teacher."""
        return self.settings[self.own()]

    def at_edge(self, config: ComparisonConfig) -> dict[tuple[str, Method], tuple[str, ...]]:
        """Return the settings that are the least or the greatest of those tried, of two or more."""

        def is_edge(value: float, tried: Sequence[float]) -> bool:
            return len(tried) > 1 and value in (min(tried), max(tried))

        edges: dict[tuple[str, Method], tuple[str, ...]] = {}
        for teacher, by_method in self.settings.items():
            for method, setting in by_method.items():
                found = []
                if method != LABEL and is_edge(setting.weight, config.weights):
                    found.append(f"weight {setting.weight:g}")
                if is_edge(setting.learning_rate, config.learning_rates):
                    found.append(f"learning rate {setting.learning_rate:g}")
                if found:
                    edges[teacher, method] = tuple(found)
        return edges


class SizedFoundationModel(Config):
    """A foundation model as it was trained for the comparison."""

    size: float
    """Factor on the sizes of the run's foundation model."""
    cost: ModelCost


class Comparison(Config):
    """All vertical models of a run; the content of comparison.json."""

    format_version: Literal[3] = 3
    name: str
    """Name of the run."""
    examples: TableRef
    """The version of the table of examples that it is made on."""
    foundation_models: dict[str, Ref]
    """The foundation models that teach, by their names."""
    num_foundation_parameters: int
    """How many numbers serving the foundation model would need; of all together, if there are several."""
    config: ComparisonConfig
    made_by: str = ""
    """Digest of all settings that decide its figures, those of the vertical models too; empty: not known."""
    user: str
    """Column by which samples are drawn; empty: samples are drawn by impression."""
    sized: tuple[SizedFoundationModel, ...]
    """Foundation models of all sizes among the teachers, and one of size 1 if `label_only_sizes` asks for its cost."""
    verticals: tuple[VerticalComparison, ...]

    @classmethod
    def read(cls, uri: str) -> Self:
        """Return the comparison in a file.

        Raises: StorageError if it is missing; ConfigError if it is something else.
        """
        return cls.parse(parse_json(read_file(uri), source=uri), source=uri)

    @property
    def foundation_model(self) -> str:
        """Return the name of the foundation model, or of all, separated by commas."""
        return ", ".join(self.foundation_models)

    def gains(self) -> Iterator[tuple[str, str, Method, MethodQuality]]:
        """Yield vertical model, task, method and quality of all methods but `label`, with the run's own teacher."""
        for vertical in self.verticals:
            for task, compared in vertical.tasks.items():
                for method, quality in compared.own().methods.items():
                    if method != LABEL:
                        yield vertical.name, task, method, quality

    def headline(self) -> str:
        """Return one line about what was found: how many of the differences from `label` are certain."""
        found = [
            quality.delta_ne
            for vertical in self.verticals
            for task in vertical.tasks.values()
            for teacher in task.teachers.values()
            for quality in teacher.methods.values()
            if quality.delta_ne
        ]
        better, worse = (sum(sign * delta.value > 0 and delta.excludes_zero for delta in found) for sign in (-1, 1))
        num_variants, num_models = len(self.config.teachers), len(self.verticals)
        variants = f" and {num_variants} variant{'s' * (num_variants != 1)} of the teacher" if num_variants else ""
        return (
            f"{len(self.config.methods)} methods{variants} on {num_models} vertical model{'s' * (num_models != 1)}: "
            f"normalized entropy is below label's in {better} of {len(found)} cases, and above it in {worse}; "
            "95 % intervals"
        )
