"""The stage that compares distillation methods on a finished run's examples."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl

from exfm.artifact.manifest import json_bytes
from exfm.artifact.storage import Ref, reading
from exfm.artifact.stores import write_file
from exfm.distill.config import VerticalConfig
from exfm.distill.stage import vertical_data
from exfm.errors import ConfigError, SchemaError
from exfm.evaluation.comparison import Comparison, TaskComparison, VerticalComparison, compare_task
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.harness import Walked, split_windows, walk
from exfm.evaluation.intervals import Ints, Labelled
from exfm.events.examples import ExamplesManifest, Floats
from exfm.events.labels import PseudoLabelsManifest
from exfm.events.partitions import join_rows, partition, read_partition
from exfm.schema import score_column
from exfm.training.manifest import PREDICTIONS, ModelManifest
from exfm.training.run import Data, OnWindow


def compare(
    config: ComparisonConfig,
    *,
    name: str,
    verticals: Sequence[VerticalConfig],
    teacher: str,
    examples: Ref,
    out: str,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> Comparison:
    """Compare methods for a run's vertical models, write what was found to the URI `out`, and return it.

    The foundation model is the one that the examples' pseudo-labels are from. All is checked before anything is
    trained, and nothing is written before all is known.

    Raises: ConfigError if a vertical model is not among `verticals`, or the settings do not fit the examples;
    SchemaError for an unknown feature, task or `user` column; StorageError if an output is missing or was written again
    since; DataError for unusable examples, or if training diverged.
    """
    chosen = chosen_models(config, verticals)
    with ExitStack() as stack:

        def open_folder(ref: Ref) -> Path:
            return stack.enter_context(reading(ref))

        dataset = open_folder(examples)
        manifest = ExamplesManifest.read(dataset)
        foundation = PseudoLabelsManifest.read(open_folder(manifest.inputs["pseudo_labels"])).inputs["foundation"]
        fm_folder = open_folder(foundation)
        data = [
            vertical_data(model, examples, teachers=model.teachers or (teacher,), dataset=dataset) for model in chosen
        ]
        for model, of_model in zip(chosen, data, strict=True):
            split_windows(model, of_model, config)
        _require_user(manifest, dataset)
        num_windows = len(chosen) * len(manifest.windows)
        compared: list[VerticalComparison] = []

        def on_window_of_model(num_done: int, _: int) -> None:
            on_window(len(compared) * len(manifest.windows) + num_done, num_windows)

        for model, of_model in zip(chosen, data, strict=True):
            compared.append(
                _compare_model(
                    model, of_model, config, predictions=fm_folder / PREDICTIONS, on_window=on_window_of_model
                )
            )
        found = Comparison(
            name=name,
            foundation_model=ModelManifest.read(fm_folder).name,
            config=config,
            user=manifest.feature_schema.user,
            inputs={"examples": examples, "foundation": foundation},
            verticals=tuple(compared),
        )
    write_file(out, json_bytes(found.to_dict()))
    return found


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


def _compare_model(
    model: VerticalConfig, data: Data, config: ComparisonConfig, *, predictions: Path, on_window: OnWindow
) -> VerticalComparison:
    walked = walk(model, data, config, on_window=on_window)
    foundation_NT, group_N = _foundation_scores(walked, data, predictions), _groups(walked, data)
    return VerticalComparison(
        name=model.name,
        windows=tuple(window.index for window in walked.windows),
        settings=dict(walked.chosen),
        tasks={
            task: _compare_task(walked, place, foundation_NT[:, place], group_N, config)
            for place, task in enumerate(data.schema.tasks())
        },
    )


def _compare_task(
    walked: Walked, task: int, foundation_N: Floats, group_N: Ints, config: ComparisonConfig
) -> TaskComparison:
    known_N = ~np.isnan(walked.labels_NT[:, task])
    examples = Labelled(
        labels_N=walked.labels_NT[known_N, task].astype(np.float64),
        weights_N=walked.weights_NT[known_N, task].astype(np.float64),
        window_N=walked.window_N[known_N],
        group_N=group_N[known_N],
    )
    scores = {str(method): scores_SNT[:, known_N, task] for method, scores_SNT in walked.scores.items()}
    return compare_task(examples, scores, foundation_N[known_N], config=config)


def _foundation_scores(walked: Walked, data: Data, predictions: Path) -> Floats:
    """Return what the foundation model predicted before it learned; [N, T]."""
    key, columns = data.schema.impression_key, [score_column(task) for task in data.schema.tasks()]
    return np.concatenate(
        [
            join_rows(
                _keys(walked, window_index=window.index, key=key),
                read_partition(predictions, window, columns=[key, *columns]),
                key=key,
                of=partition(predictions, window),
                onto="the examples",
            )
            .select(pl.col(columns).cast(pl.Float32))
            .to_numpy()
            for window in walked.windows
        ]
    )


def _groups(walked: Walked, data: Data) -> Ints:
    """Return a number for each example's user, one of its own where the user is not known; [N]."""
    key, user, own_N = data.schema.impression_key, data.log_schema.user, -1 - np.arange(len(walked.keys))
    if not user:
        return own_N
    rows = [
        _keys(walked, window_index=window.index, key=key).join(
            read_partition(data.datasets[0], window, columns=[key, user]), on=key, how="left", maintain_order="left"
        )
        for window in walked.windows
    ]
    codes = pl.concat(rows)[user].rank("dense").cast(pl.Int64)
    return np.where(codes.is_null().to_numpy(), own_N, codes.fill_null(0).to_numpy())


def _keys(walked: Walked, *, window_index: int, key: str) -> pl.DataFrame:
    return pl.DataFrame({key: walked.keys.filter(pl.Series(walked.window_N == window_index))})


def _require_user(examples: ExamplesManifest, dataset: Path) -> None:
    user, columns = examples.feature_schema.user, read_partition(dataset, examples.windows[0]).columns
    if user and user not in columns:
        raise SchemaError(
            f"the schema's user column {user!r} is not in the examples, which have {', '.join(columns)}; name one of "
            "these, or leave `user` out"
        )
