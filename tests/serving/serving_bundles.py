"""Bundles that tests serve."""

from pathlib import Path

import safetensors.torch
from serving_requests import make_request

from exfm.artifact.bundle import DENSE_FILE, GOLDEN_REQUEST, GOLDEN_RESPONSE, draft_bundle, seal_bundle
from exfm.artifact.manifest import write_json
from exfm.artifact.plan import ShardPlan
from exfm.features.oip import answer_to_json, tensors_from_json
from exfm.features.request import encode_request
from exfm.models.config import NetworkConfig
from exfm.models.network import DenseNetwork
from exfm.models.scoring import UnshardedScorer
from exfm.schema import Schema


def seal_with_golden_scores(
    folder: Path, schema: Schema, network: DenseNetwork, plan: ShardPlan, *, config: NetworkConfig | None = None
) -> Path:
    """Make a bundle named `students` of a folder with the shards of a plan; return the folder.

    `config` has the network's sizes; None: the defaults.
    """
    sizes = (config or NetworkConfig()).to_dict()
    for file in (DENSE_FILE, GOLDEN_REQUEST):
        (folder / file).parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), folder / DENSE_FILE)

    def seal() -> None:
        seal_bundle(
            folder,
            draft_bundle(name="students", schema=schema, network=sizes, plan=plan, lineage={}),
        )

    seal()
    scores_NT = UnshardedScorer.load(folder).scores(encode_request(tensors_from_json(make_request()), schema))
    answer = answer_to_json(
        request_id="", model_name="students", model_version="", tasks=schema.tasks(), scores_NT=scores_NT
    )
    write_json(folder / GOLDEN_REQUEST, make_request())
    write_json(folder / GOLDEN_RESPONSE, answer)
    seal()
    return folder
