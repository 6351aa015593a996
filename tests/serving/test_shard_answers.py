"""What a ranker takes for a shard's answer, however it came."""

import re
from pathlib import Path

import pytest
import torch
from serving_requests import make_request

from exfm.artifact.bundle import BundleManifest
from exfm.errors import ServingError, VersionMismatchError
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.scoring import NetPooled, Scorer, load_shard_tables
from exfm.serving.ranker.shards.link import NetBags
from exfm.serving.ranker.shards.local_link import LocalLink

Asked = tuple[LocalLink, NetBags, NetPooled]


@pytest.fixture(scope="module")
def asked(bundle: Path) -> Asked:
    """Return a link to shard 0, what it is asked, and its answer."""
    manifest = BundleManifest.read(bundle)
    scorer = Scorer.load(bundle, manifest)
    tables = load_shard_tables(bundle, manifest, shard=0)
    bags = scorer.bags_for(encode_request(tensors_from_json(make_request()), manifest.feature_schema))[0]
    answers = {net: tables.pooled(net, of_net) for net, of_net in bags.items()}
    return LocalLink(tables, scorer, shard=0), bags, answers


def test_pooled_embeddings_of_the_right_shapes_are_taken(asked: Asked) -> None:
    link, bags, answers = asked
    link.check(answers, bags, bundle_id=link.shard.bundle_id)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 0), (0, 1), (-1, 0)])
def test_pooled_embeddings_of_another_shape_are_an_error_of_the_shard(asked: Asked, rows: int, columns: int) -> None:
    link, bags, answers = asked
    right = tuple(answers["item"].shape)
    wrong = torch.zeros(right[0] + rows, right[1] + columns)
    if (rows, columns) == (0, 0):
        wrong = wrong.reshape(-1)
    with pytest.raises(ServingError, match=re.escape(f"'item': {tuple(wrong.shape)}")):
        link.check({**answers, "item": wrong}, bags, bundle_id=link.shard.bundle_id)


def test_an_answer_without_a_net_is_an_error_of_the_shard(asked: Asked) -> None:
    link, bags, _ = asked
    with pytest.raises(ServingError, match=r"answered pooled embeddings of shapes \{\}, expected"):
        link.check({}, bags, bundle_id=link.shard.bundle_id)


def test_an_answer_of_another_bundle_is_refused(asked: Asked) -> None:
    link, bags, answers = asked
    with pytest.raises(VersionMismatchError, match="answered from bundle"):
        link.check(answers, bags, bundle_id="f" * 64)
