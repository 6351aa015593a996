"""Whether servers' images can be had is asked of nodes and of a real registry's protocol."""

import logging

import pytest

from exfm.deploy.images import ImageName, missing_images


@pytest.mark.parametrize(
    ("name", "registry", "repository", "reference"),
    [
        ("exfm-serving:0.1.0", "docker.io", "library/exfm-serving", "0.1.0"),
        ("team/exfm", "docker.io", "team/exfm", "latest"),
        ("r.example:5000/team/exfm:1", "r.example:5000", "team/exfm", "1"),
        ("localhost/exfm:1@sha256:ab", "localhost", "exfm", "sha256:ab"),
    ],
)
def test_short_names_are_completed(name: str, registry: str, repository: str, reference: str) -> None:
    assert ImageName.parse(name) == ImageName(registry=registry, repository=repository, reference=reference)


def test_an_image_that_a_registry_lacks_is_missing(image_registry: str) -> None:
    images = [f"{image_registry}/team/exfm:1", f"{image_registry}/team/exfm:2"]
    assert missing_images(images, nodes=[]) == [f"{image_registry}/team/exfm:2"]


def test_an_image_on_a_node_needs_no_registry(image_registry: str) -> None:
    nodes = [
        {"status": {"images": [{"names": [f"{image_registry}/team/exfm:2"]}, {"names": ["docker.io/library/exfm:1"]}]}}
    ]
    assert missing_images([f"{image_registry}/team/exfm:2", "exfm:1"], nodes=nodes) == []


def test_an_image_is_not_missing_if_its_registry_requires_credentials(
    image_registry: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert missing_images([f"{image_registry}/closed/exfm:1"], nodes=[]) == []
    assert "was not checked: localhost" in caplog.text
    assert "answers 401 without credentials" in caplog.text


def test_an_image_is_not_missing_if_its_registry_is_unreachable(caplog: pytest.LogCaptureFixture) -> None:
    assert missing_images(["localhost:1/exfm:1"], nodes=[]) == []
    assert "localhost:1/exfm:1 was not checked: localhost:1 does not answer" in caplog.text
