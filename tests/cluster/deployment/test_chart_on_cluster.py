"""The Helm chart's life: installed, tested, upgraded, rolled back, removed. Its name puts it before exfm is applied."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from operators import NAMESPACE, REPOSITORY

pytestmark = pytest.mark.cluster

CHART = REPOSITORY / "charts" / "exfm"
IMAGES = {
    "image": {"repository": "localhost/exfm-serving", "tag": "rig"},
    "s3": {"image": {"repository": "localhost/exfm-storage-initializer", "tag": "rig"}},
}

Helm = Callable[..., str]


@pytest.fixture(scope="module")
def helm(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Return what runs helm, and returns what it printed."""
    home = tmp_path_factory.mktemp("helm")
    places = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}

    def run(*arguments: str) -> str:
        command = [os.environ.get("EXFM_HELM", "helm"), f"--kubeconfig={cluster}", *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=180, env={**os.environ, **places}, check=False
        )
        assert process.returncode == 0, f"helm {' '.join(arguments)}: {process.stdout}\n{process.stderr}"
        return process.stdout

    return run


@pytest.fixture(scope="module")
def release(helm: Helm, kubectl: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The chart installed as release `exfm`; yields the arguments that name it, its chart and the images."""
    values = tmp_path_factory.mktemp("values") / "images.yaml"
    values.write_text(json.dumps(IMAGES), encoding="utf-8")
    named = ["exfm", str(CHART), f"--values={values}"]
    printed = helm("install", *named)
    assert "exfm deploy" in printed, "the notes say what to do next"
    yield named
    helm("uninstall", "exfm", "--wait", "--timeout=120s")
    left = kubectl("get", "namespaces,clusterstoragecontainers", "--output=name").split()
    assert not [name for name in left if name.endswith("/exfm")]


def lame_duck(kubectl: Callable[..., str]) -> str:
    return kubectl(
        "get", "configmap", f"--namespace={NAMESPACE}", "exfm-servers", "--output=jsonpath={.data.shard\\.yaml}"
    ).strip()


def test_helm_test_passes_on_an_installed_release(helm: Helm, release: list[str]) -> None:
    assert "Succeeded" in helm("test", "exfm", "--timeout=120s")


def test_an_upgrade_changes_what_it_says_and_a_rollback_takes_it_back(
    helm: Helm, release: list[str], kubectl: Callable[..., str]
) -> None:
    before = lame_duck(kubectl)
    helm("upgrade", *release, "--set=shard.settings.shutdown.lame_duck_s=17", "--set=gpu.servers=ranker")
    assert lame_duck(kubectl) == "shutdown:\n  lame_duck_s: 17"
    runtime = ("get", "servingruntime", f"--namespace={NAMESPACE}", "exfm-ranker", "--output=jsonpath={.spec}")
    assert "nvidia.com/gpu" in kubectl(*runtime)
    helm("rollback", "exfm", "1")
    assert lame_duck(kubectl) == before
    assert "nvidia.com/gpu" not in kubectl(*runtime)


def test_a_value_that_the_schema_does_not_know_is_refused(helm: Helm, release: list[str]) -> None:
    with pytest.raises(AssertionError, match=r"(?i)additional propert.*lame_duck"):
        helm("upgrade", *release, "--set=lame_duck_s=3")
