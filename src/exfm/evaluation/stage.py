"""The stage that compares distillation methods on a run's examples."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from exfm.artifact.digests import digest_of_json
from exfm.artifact.manifest import json_bytes
from exfm.artifact.storage import Ref, reading
from exfm.artifact.stores import write_file
from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError, SchemaError
from exfm.evaluation.comparison import ColdStart, Comparison, LargerLabelOnly, TaskComparison, VerticalComparison
from exfm.evaluation.config import ComparisonConfig, Method, Setting
from exfm.evaluation.field import Contender, larger
from exfm.evaluation.figures import compare_task
from exfm.evaluation.first_seen import KNOWN, NEW
from exfm.evaluation.foundation import SizedFoundations, train_sizes
from exfm.evaluation.harness import Walked, split_windows, walk
from exfm.evaluation.sizes import sized
from exfm.evaluation.slices import vertical_data
from exfm.evaluation.teachers import OldSnapshots, Source, Teachers
from exfm.events.examples import ExampleTable
from exfm.metrics.intervals import Ints, Labelled, groups_of
from exfm.schema import Schema, time_text
from exfm.training.data import Data
from exfm.training.loop import OnWindow
from exfm.training.manifest import ModelManifest


def compare(
    config: ComparisonConfig,
    *,
    name: str,
    verticals: Sequence[VerticalConfig],
    teachers: Mapping[str, Sequence[str]],
    foundations: Mapping[str, Ref],
    examples: ExampleTable,
    out: str,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> Comparison:
    """Compare methods for a run's vertical models, write what was found to the URI `out`, and return it.

    `teachers` are the foundation models of each vertical model, by its name, and `foundations` all of them by theirs.
    All is checked before anything is trained, and nothing is written before all is known.

    Raises: ConfigError if a vertical model is not among `verticals` or has no teacher, or if the settings do not fit;
    SchemaError for an unknown feature, task or `user` column; StorageError if a foundation model or a file of the
    examples is missing, or a foundation model was written again since; DataError for unusable examples, or if training
    diverged.
    """
    chosen = chosen_models(config, verticals)
    _require_teachers(chosen, teachers)
    refs = {fm: foundations[fm] for model in chosen for fm in teachers[model.name]}
    fms = {fm: _manifest(ref) for fm, ref in refs.items()}
    data = [vertical_data(model, examples, teachers={fm: fms[fm] for fm in teachers[model.name]}) for model in chosen]
    (own, foundation), *_ = fms.items()
    for model, of_model in zip(chosen, data, strict=True):
        split_windows(model, of_model, config)
        _require_one_teacher(config, model, of_model, own)
        for size in config.label_only_sizes:
            larger(model, size)
    _require_user(examples)
    _require_single(config, examples.schema)
    aged, of_sizes = ([variant for variant in config.teachers if getattr(variant, key)] for key in ("age", "size"))
    models = {
        variant.size: sized(foundation.model, variant.size, source=f"comparison.teachers: {variant.name!r}")
        for variant in of_sizes
    }
    if config.label_only_sizes:
        models[1.0] = foundation.model
    aged_by_model: list[list[Source]] = [
        [OldSnapshots(aged, foundation, refs[own].uri, teacher=own, tasks=of_model.schema.tasks())] if aged else []
        for of_model in data
    ]
    walks = _Walks(num_walks=len(chosen) + bool(models), on_window=on_window)
    trained = train_sizes(foundation, models, examples=examples, on_window=walks.next()) if models else {}
    compared = []
    for model, of_model, of_ages in zip(chosen, data, aged_by_model, strict=True):
        sources: list[Source] = [*of_ages, SizedFoundations(of_sizes, trained, data=of_model)]
        of_vertical = Teachers(of_model.teachers, config.teachers, sources=sources)
        compared.append(_compare_model(model, of_model, config, of_vertical, on_window=walks.next()))
    found = Comparison(
        name=name,
        examples=examples.ref,
        foundation_models=refs,
        num_foundation_parameters=sum(fm.num_parameters for fm in fms.values()),
        config=config,
        made_by=digest_of_settings(config, verticals, teachers),
        user=examples.schema.user,
        sized=tuple(of_size.model for of_size in trained.values()),
        verticals=tuple(compared),
    )
    write_file(out, json_bytes(found.to_dict()))
    return found


def digest_of_settings(
    config: ComparisonConfig, verticals: Sequence[VerticalConfig], teachers: Mapping[str, Sequence[str]]
) -> str:
    """Return the digest of the settings of a comparison and of its vertical models."""
    models = [[model.to_dict(), list(teachers[model.name])] for model in verticals]
    return digest_of_json([config.to_dict(), models])


def chosen_models(config: ComparisonConfig, verticals: Sequence[VerticalConfig]) -> list[VerticalConfig]:
    """Return the vertical models that a comparison is of.

    Raises: ConfigError if it names one that is not there.
    """
    unknown = set(config.vertical_models) - {model.name for model in verticals}
    if unknown:
        raise ConfigError(
            f"comparison.vertical_models: the run has no vertical model {', '.join(sorted(unknown))}; "
            f"it has {', '.join(model.name for model in verticals)}"
        )
    return [model for model in verticals if model.name in config.vertical_models or not config.vertical_models]


def _manifest(ref: Ref) -> ModelManifest:
    with reading(ref) as folder:
        return ModelManifest.read(folder)


def _compare_model(
    model: VerticalConfig, data: Data, config: ComparisonConfig, teachers: Teachers, *, on_window: OnWindow
) -> VerticalComparison:
    walked = walk(model, data, config, teachers, on_window=on_window)
    group_N = groups_of(walked.users, num_examples=len(walked.keys))
    settings: dict[str, dict[Method, Setting]] = {}
    for contender, setting in walked.chosen.items():
        if contender.size == 1:
            settings.setdefault(contender.teacher, {})[contender.method] = setting
    own, kind = next(iter(settings)), data.log_schema.event_time.kind
    return VerticalComparison(
        name=model.name,
        windows=tuple(window.index for window in walked.windows),
        first_window=time_text(walked.windows[0].start, kind=kind),
        last_window=time_text(walked.windows[-1].start, kind=kind),
        settings=settings,
        costs={method: walked.costs[Contender(own, method)] for method in settings[own]},
        larger={
            contender.size: LargerLabelOnly(setting=setting, cost=walked.costs[contender])
            for contender, setting in walked.chosen.items()
            if contender.size > 1
        },
        tasks={task: _compare_task(walked, place, group_N, config) for place, task in enumerate(data.schema.tasks())},
    )


def _compare_task(walked: Walked, task: int, group_N: Ints, config: ComparisonConfig) -> TaskComparison:
    known_N = ~np.isnan(walked.labels_NT[:, task])

    def on(chosen_N: npt.NDArray[np.bool_], teachers: Collection[str]) -> TaskComparison:
        examples = Labelled(
            labels_N=walked.labels_NT[chosen_N, task].astype(np.float64),
            weights_N=walked.weights_NT[chosen_N, task].astype(np.float64),
            window_N=walked.window_N[chosen_N],
            group_N=group_N[chosen_N],
        )
        scores = {
            contender: scores_SNT[:, chosen_N, task]
            for contender, scores_SNT in walked.scores.items()
            if contender.teacher in teachers
        }
        pseudo = {teacher: walked.pseudo[teacher][chosen_N, task] for teacher in teachers}
        references = {line: scores_NT[chosen_N, task] for line, scores_NT in walked.references.items()}
        return compare_task(examples, scores, pseudo, references=references, config=config)

    own = next(iter(walked.pseudo))
    cold_start = {
        feature: ColdStart(new=on(known_N & (newness_N == NEW), [own]), known=on(known_N & (newness_N == KNOWN), [own]))
        for feature, newness_N in walked.newness.items()
    }
    return on(known_N, walked.pseudo).model_copy(update={"cold_start": cold_start})


class _Walks:
    """Reports how many windows of several walks are done."""

    def __init__(self, *, num_walks: int, on_window: OnWindow) -> None:
        self._num_walks, self._on_window = num_walks, on_window
        self._num_begun = 0

    def next(self) -> OnWindow:
        """Return what the next walk is to call after each window."""
        num_before = self._num_begun
        self._num_begun += 1

        def on_window(num_done: int, num_windows: int) -> None:
            self._on_window(num_before * num_windows + num_done, self._num_walks * num_windows)

        return on_window


def _require_teachers(chosen: Sequence[VerticalConfig], teachers: Mapping[str, Sequence[str]]) -> None:
    untaught = [repr(model.name) for model in chosen if not teachers[model.name]]
    if untaught:
        raise ConfigError(
            f"no foundation model teaches all tasks of vertical model {', '.join(untaught)}, so no methods can be "
            "compared; leave it out by comparison.vertical_models, or add its tasks to a foundation model and run again"
        )


def _require_one_teacher(config: ComparisonConfig, model: VerticalConfig, data: Data, foundation: str) -> None:
    asked = [key for key in ("teachers", "label_only_sizes") if getattr(config, key)]
    if asked and tuple(data.teachers) != (foundation,):
        raise ConfigError(
            f"comparison.{asked[0]}: only foundation model {foundation!r} is varied and timed, but vertical model "
            f"{model.name!r} has {', '.join(data.teachers)}; leave it out by comparison.vertical_models"
        )
    if foundation in [variant.name for variant in config.teachers]:
        raise ConfigError(
            f"comparison.teachers: {foundation!r} is the name of the run's foundation model; give the variant another"
        )


def _require_single(config: ComparisonConfig, schema: Schema) -> None:
    single = [feature.name for feature in schema.sparse if feature.kind == "single"]
    unknown = [feature for feature in config.cold_start if feature not in single]
    if unknown:
        raise ConfigError(
            f"comparison.cold_start: the schema has no sparse feature {', '.join(unknown)} of kind single; it has "
            f"{', '.join(single) or 'none'}"
        )


def _require_user(examples: ExampleTable) -> None:
    user, columns = examples.schema.user, examples.columns
    if user and user not in columns:
        raise SchemaError(
            f"the schema's user column {user!r} is not in the examples, which have {', '.join(columns)}; name one of "
            "these, or leave `user` out"
        )
