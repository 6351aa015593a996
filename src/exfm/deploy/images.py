"""Whether the images of servers exist, on the nodes or in their registry; none is pulled."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import urllib3

from exfm.deploy.objects import Object

DOCKER_HUB = "docker.io"

TIMEOUT_S = 3.0
"""Timeout of each request to a registry."""

_MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageName:
    """An image's name with all its parts, as container runtimes complete a short one."""

    registry: str
    repository: str
    reference: str
    """A tag, or a digest (`sha256:...`)."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the parts of `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`."""
        rest, _, digest = name.partition("@")
        first, slash, others = rest.partition("/")
        has_registry = bool(slash) and (re.search(r"[.:]", first) is not None or first == "localhost")
        registry, path = (first, others) if has_registry else (DOCKER_HUB, rest)
        repository, _, tag = path.partition(":")
        if registry == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(registry=registry, repository=repository, reference=digest or tag or "latest")


def missing_images(images: Iterable[str], *, nodes: Iterable[Object]) -> list[str]:
    """Return the images that no node has and that are missing in their registry.

    A registry that does not answer, or requires credentials, is logged: nodes may reach it where this process cannot.
    """
    on_nodes = [image for node in nodes for image in node.get("status", {}).get("images", [])]
    held = {ImageName.parse(name) for image in on_nodes for name in image.get("names") or []}
    wanted = {image: ImageName.parse(image) for image in images}
    return [image for image, name in wanted.items() if name not in held and not _may_be_in_registry(image, name)]


def _may_be_in_registry(image: str, name: ImageName) -> bool:
    host = "registry-1.docker.io" if name.registry == DOCKER_HUB else name.registry
    url = f"https://{host}/v2/{name.repository}/manifests/{name.reference}"
    with urllib3.PoolManager(timeout=TIMEOUT_S, retries=False) as pool:
        try:
            status = _status(pool, url)
        except urllib3.exceptions.HTTPError as error:
            _log.warning("image %s was not checked: %s does not answer (%s)", image, host, error)
            return True
    if status == 404:
        return False
    if status != 200:
        _log.warning("image %s was not checked: %s answers %d without credentials", image, host, status)
    return True


def _status(pool: urllib3.PoolManager, url: str) -> int:
    """Return the status of a manifest's HEAD, with an anonymous token where the registry requires a token.

    Source: OCI Distribution Specification, "Checking if content exists in the registry"; Docker's token authentication.
    """
    headers = {"Accept": _MANIFEST_TYPES}
    answer = pool.request("HEAD", url, headers=headers)
    challenge = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("WWW-Authenticate", "")))
    if answer.status == 401 and "realm" in challenge:
        realm = challenge.pop("realm")
        granted = pool.request("GET", realm, fields=challenge)
        if granted.status == 200:
            token = granted.json().get("token") or granted.json().get("access_token", "")
            answer = pool.request("HEAD", url, headers={**headers, "Authorization": f"Bearer {token}"})
    return answer.status
