"""What kubectl and helm make of the manifests and the chart, as objects."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
MANIFESTS, CHART = REPOSITORY / "manifests", REPOSITORY / "charts/exfm"

Object = dict[str, Any]
Objects = dict[tuple[str, str, str], Object]
"""By kind, namespace ("" for the cluster's) and name."""


def read_objects(text: str) -> Objects:
    """Return the objects in a stream of YAML, none of them twice."""
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    objects = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in documents}
    assert len(objects) == len(documents)
    return objects


def kustomized(folder: Path) -> Objects:
    """Return what `kubectl kustomize` makes of a folder; a warning fails the test."""
    return read_objects(_output(_binary("kubectl"), "kustomize", str(folder)))


def templated(*values: str, files: Sequence[Path] = ()) -> Objects:
    """Return what the chart makes of values in files and like `gpu.servers=ranker`, without `helm test`."""
    settings = [f"--values={file}" for file in files]
    settings += [argument for value in values for argument in ("--set", value)]
    return read_objects(_output(_binary("helm"), "template", "exfm", str(CHART), "--skip-tests", *settings))


def chart_notes(*values: str) -> str:
    """Return what the chart says after an installation."""
    settings = [argument for value in values for argument in ("--set", value)]
    return _output(_binary("helm"), "install", "exfm", str(CHART), "--dry-run=client", *settings).partition("NOTES:")[2]


def chart_tests(*values: str) -> Objects:
    """Return the objects that `helm test` makes."""
    settings = [argument for value in values for argument in ("--set", value)]
    everything = read_objects(_output(_binary("helm"), "template", "exfm", str(CHART), *settings))
    return {key: everything[key] for key in everything.keys() - templated(*values).keys()}


def overlay(folder: Path, *, resources: Path, components: list[str], **more: Any) -> Path:
    """Return the folder of a new overlay on `resources` with some of our components."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(resources.resolve(), folder.resolve())],
        "components": [
            os.path.relpath((MANIFESTS / "components" / name).resolve(), folder.resolve()) for name in components
        ],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


def _binary(name: str) -> str:
    path = os.environ.get(f"EXFM_{name.upper()}") or shutil.which(name)
    if path is None:
        pytest.fail(f"no {name} on PATH; put it there, or name it in EXFM_{name.upper()}")
    return path


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), f"{' '.join(command)}: {done.stderr}"
    return done.stdout
