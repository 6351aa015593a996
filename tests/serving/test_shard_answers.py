"""What a ranker takes for a shard's answer, however it came."""

from pathlib import Path

import pytest
import torch
from serving_requests import make_request

from exfm.artifact.bundle import BundleManifest
from exfm.errors import ServingError, VersionMismatchError
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.carried_rows import Carried
from exfm.models.scoring import Scorer, load_shard_tables
from exfm.serving.ranker.link import NetAnswers, NetBags
from exfm.serving.ranker.local_link import LocalLink

Asked = tuple[LocalLink, NetBags, NetAnswers]


@pytest.fixture(scope="module")
def asked(bundle: Path) -> Asked:
    """Return a link to shard 0, what it is asked, and its answer by rows."""
    manifest = BundleManifest.read(bundle)
    scorer = Scorer.load(bundle, manifest)
    tables = load_shard_tables(bundle, manifest, shard=0, sums="rows")
    bags = scorer.bags_for(encode_request(tensors_from_json(make_request()), manifest.feature_schema))[0]
    answers = {net: tables.answer(tables.find(net, of_net)) for net, of_net in bags.items()}
    assert torch.uint8 in {of_net.dtype for of_net in answers.values()}
    return LocalLink(tables, scorer, shard=0), bags, answers


def test_rows_are_kept_with_the_bags_that_they_are_of(asked: Asked) -> None:
    link, bags, answers = asked
    sums = link.sums_in(answers, bags, bundle_id=link.shard.bundle_id)
    for net, answer in answers.items():
        if answer.dtype == torch.uint8:
            assert sums[net] == Carried(answer, bags[net])
        else:
            assert sums[net] is answer


@pytest.mark.parametrize("num_bytes", [0, -1, 1])
def test_rows_of_another_size_are_an_error_of_the_shard(asked: Asked, num_bytes: int) -> None:
    link, bags, answers = asked
    net = next(net for net, of_net in answers.items() if of_net.dtype == torch.uint8)
    right = len(answers[net])
    wrong = torch.zeros(right + num_bytes if num_bytes else 0, dtype=torch.uint8)
    with pytest.raises(
        ServingError, match=rf"answered sums or rows of shapes .*\({len(wrong)},\).* expected .*\({right},\)"
    ):
        link.sums_in({**answers, net: wrong}, bags, bundle_id=link.shard.bundle_id)


def test_an_answer_without_a_net_is_an_error_of_the_shard(asked: Asked) -> None:
    link, bags, _ = asked
    with pytest.raises(ServingError, match=r"answered sums or rows of shapes \{\}, expected"):
        link.sums_in({}, bags, bundle_id=link.shard.bundle_id)


def test_an_answer_of_another_bundle_is_refused(asked: Asked) -> None:
    link, bags, answers = asked
    with pytest.raises(VersionMismatchError, match="answered from bundle"):
        link.sums_in(answers, bags, bundle_id="f" * 64)
