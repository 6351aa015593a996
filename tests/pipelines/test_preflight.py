"""What the pipeline's first step finds missing."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from exfm.deploy.cluster import Cluster
from exfm.deploy.preflight import RIGHTS, missing
from exfm.errors import ConfigError, StorageError
from exfm.events.schemas import MOVIELENS
from exfm_components.preflight import check_run, failures_of
from exfm_components.run_config import RunConfig, read_run_config
from simulated_cluster import SimulatedCluster

REPOSITORY = Path(__file__).parents[2]

ROLE = next(
    item
    for item in yaml.safe_load_all((REPOSITORY / "manifests/base/deployer.yaml").read_text(encoding="utf-8"))
    if item["kind"] == "Role"
)


class Account(SimulatedCluster):
    """A cluster that tells what an account may do."""

    def __init__(
        self,
        rules: list[Any],
        *,
        runtimes: tuple[str, ...] = ("exfm-ranker", "exfm-shard"),
        all_known: bool = True,
        image: str = "localhost/exfm-serving:1",
        on_node: str = "localhost/exfm-serving:1",
    ) -> None:
        super().__init__()
        self.rules, self.runtimes, self.all_known = rules, runtimes, all_known
        self.image, self.on_node = image, on_node

    def own_rules(self) -> tuple[list[Any], bool]:
        return self.rules, self.all_known

    def get(self, kind: str, name: str) -> Any:
        there = {*(("ServingRuntime", runtime) for runtime in self.runtimes), ("ServiceAccount", "exfm-server")}
        spec = {"containers": [{"image": self.image}]} if kind == "ServingRuntime" else {}
        return {"metadata": {"name": name}, "spec": spec} if (kind, name) in there else None

    def find(self, kind: str, **which: Any) -> list[Any]:
        assert kind == "Node"
        return [{"status": {"images": [{"names": [self.on_node]}]}}]


def test_the_role_of_the_manifests_suffices() -> None:
    assert missing(Account(ROLE["rules"])) == []


def test_an_administrator_may_do_all() -> None:
    assert missing(Account([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])) == []


@pytest.mark.parametrize(
    ("group", "resource", "verb"), [(*what, verb) for what, verbs in RIGHTS.items() for verb in verbs]
)
def test_each_right_that_is_missing_is_named(group: str, resource: str, verb: str) -> None:
    rules = [
        {"apiGroups": [g], "resources": [r], "verbs": [v for v in verbs if (g, r, v) != (group, resource, verb)]}
        for (g, r), verbs in RIGHTS.items()
    ]
    [line] = missing(Account(rules))
    assert f"may not {verb} on {resource}{f'.{group}' if group else ''} in namespace exfm: bind it to Role" in line


def test_rights_that_the_cluster_does_not_tell_are_not_missed() -> None:
    assert missing(Account([], all_known=False)) == []


def test_a_right_to_one_object_by_name_is_no_right_to_all() -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "resourceNames": ["one"]}]
    assert "get on inferenceservices.serving.kserve.io" in missing(Account(rules))[0]


def test_runtimes_that_are_not_there_are_named() -> None:
    [line] = missing(Account(ROLE["rules"], runtimes=("exfm-shard",)))
    assert line == "namespace exfm has no ServingRuntime exfm-ranker: apply exfm's manifests there"


def test_an_image_that_is_nowhere_is_named(image_registry: str) -> None:
    image = f"{image_registry}/team/exfm:2"
    [line] = missing(Account(ROLE["rules"], image=image))
    assert line.startswith(f"image {image} is neither in its registry nor on a node")
    assert missing(Account(ROLE["rules"], image=image, on_node=image)) == []
    assert missing(Account(ROLE["rules"], image=f"{image_registry}/team/exfm:1")) == []


def test_probes_run_at_a_time_and_one_that_hangs_is_told_in_time() -> None:
    def fails() -> None:
        raise StorageError("no bucket there")

    hang, began_s = threading.Event(), time.monotonic()
    found = failures_of({"a": hang.wait, "b": lambda: None, "c": fails, "d": hang.wait}, deadline_s=0.2)
    hang.set()
    late = "no answer within 0.2 s; check its address and the network"
    assert found == [f"a: {late}", "c: no bucket there", f"d: {late}"]
    assert time.monotonic() - began_s < 5


def run_at(root: str, folder: Path, **changes: Any) -> RunConfig:
    file = folder / "run.yaml"
    run = {
        "name": "test",
        "root": root,
        "feature_schema": str(MOVIELENS),
        "source": {"kind": "synthetic"},
        "window_length": 100,
        "vertical_models": [{"name": "one"}],
    }
    file.write_text(yaml.safe_dump(run | changes), encoding="utf-8")
    return read_run_config(file)


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Account([], runtimes=())
    monkeypatch.setattr(Cluster, "connect", lambda **where: cluster)
    (tmp_path / "root").write_text("a file, where a folder is wanted")
    source = {"kind": "movielens", "folder": str(tmp_path / "nowhere")}
    run = run_at(str(tmp_path / "root"), tmp_path, source=source, deploy=True)
    with pytest.raises(ConfigError) as caught:
        check_run(run)
    store, of_source, of_cluster = str(caught.value).splitlines()
    assert re.search(r"^store .*/root: .*File exists", store)
    assert re.search(r"^source movielens: .*nowhere: no such folder", of_source)
    assert re.search(r"^cluster, namespace exfm: pods can read none of .*deployment.served_root", of_cluster)


def test_a_run_that_lacks_nothing_is_told_in_a_line(tmp_path: Path) -> None:
    run = run_at(str(tmp_path / "out"), tmp_path)
    assert check_run(run) == f"settings, store {tmp_path}/out, source synthetic: there"
    assert not list((tmp_path / "out").iterdir()), "the probe is gone"
