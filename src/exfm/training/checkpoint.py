"""A model's weights, and what its training needs to go on, as safetensors.

weights.safetensors, all that scoring needs:

    table.<name>            rows of a table
    dense.<name>            a parameter of the dense network, with the shrinkage in its head

training.safetensors:

    adagrad.<table>         the state of a table's optimizer
    adam.<name>.<key>       the state of a dense parameter's optimizer
    head.<name>             a parameter that only training has, and the serving head before shrinkage
    shrinkage.<name>        the state of the shrinkage

references.safetensors, what was learned beside the model:

    <reference line>.<name> the state of a reference line
    ids.<table>             the distinct keys of a table

A state does not know how many processes trained it. Where several have the tables, all call these functions: the leader
writes what it collects from them, and each reads its own tables.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from exfm.errors import StorageError
from exfm.models.ranking import RankingModel
from exfm.models.ranks import Ranks
from exfm.training.learner import Learner

WEIGHTS = "weights.safetensors"
TRAINING_STATE = "training.safetensors"
REFERENCES = "references.safetensors"

_SERVING_HEAD = "model.network.serving_head."
_ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


def save_weights(learner: Learner, folder: Path) -> None:
    """Write all that scoring needs into a snapshot's folder."""
    folded = learner.shrinkage.fold(learner.model.network.serving_head)
    served = {f"dense.serving_head.{name}": value for name, value in folded.items()}
    _save(_weights(learner.model) | served, folder / WEIGHTS, learner.model.ranks)


def load_weights(model: RankingModel, folder: Path) -> None:
    """Fill a model with the weights of a snapshot.

    Raises: StorageError if the file is missing, damaged or another model's.
    """
    _fill(_weights(model), folder / WEIGHTS, model)


def save_training_state(learner: Learner, optimizer: torch.optim.Adam, folder: Path) -> None:
    """Write what training needs, besides the weights, to go on as if it had never stopped."""
    _save(_training_state(learner, optimizer), folder / TRAINING_STATE, learner.model.ranks)


def load_training_state(learner: Learner, optimizer: torch.optim.Adam, folder: Path) -> None:
    """Fill a learner and its optimizers with the state in a snapshot's folder.

    Raises: StorageError if the file is missing, damaged or another model's.
    """
    _fill(_training_state(learner, optimizer), folder / TRAINING_STATE, learner.model)


def save_references(arrays: Mapping[str, npt.NDArray[Any]], folder: Path) -> None:
    """Write what was learned beside the model into a snapshot's folder."""
    safetensors.numpy.save_file(dict(arrays), folder / REFERENCES)


def load_references(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return what was learned beside the model.

    Raises: StorageError if the file is missing or damaged.
    """
    path = folder / REFERENCES
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"{path}: {error}") from error


def _weights(model: RankingModel) -> dict[str, Tensor]:
    tables = {f"table.{name}": value for name, value in model.tables.weights().items()}
    return tables | {f"dense.{name}": value for name, value in model.network.state_dict().items()}


def _training_state(learner: Learner, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    state = {f"adagrad.{name}": value for name, value in learner.model.tables.optimizer_state().items()}
    for name, parameter in learner.dense_parameters():
        state |= {f"adam.{name}.{key}": optimizer.state[parameter][key] for key in _ADAM_KEYS}
        if not name.startswith("model.") or name.startswith(_SERVING_HEAD):
            state[f"head.{name}"] = parameter
    shrinkage = learner.shrinkage.state()
    return state | {f"shrinkage.{name}": torch.from_numpy(value) for name, value in shrinkage.items()}


def _save(own: Mapping[str, Tensor], path: Path, ranks: Ranks) -> None:
    tensors = ranks.collect(own)
    if ranks.leads:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, path)


@torch.no_grad()
def _fill(targets: Mapping[str, Tensor], path: Path, model: RankingModel) -> None:
    others = {f"{kind}.{name}" for kind in ("table", "adagrad") for name in model.tables_of_others()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys()) - others
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            expected = {name: tuple(value.shape) for name, value in targets.items()}
            if found != expected:
                name = min(name for name in found | expected if found.get(name) != expected.get(name))
                raise StorageError(
                    f"{path}: tensor {name!r} has shape {found.get(name)}, expected {expected.get(name)}; "
                    "it was made with another schema, other sizes or an earlier release: train again"
                )
            for name, target in targets.items():
                target.copy_(file.get_tensor(name))
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"{path}: {error}") from error
