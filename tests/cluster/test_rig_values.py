"""What the rig works out before it acts."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from rig import binaries, cgroups
from rig.binaries import (
    TOOLS,
    TRAINER_TOOLS,
    Binaries,
    ensure_binaries,
    linker_flags,
    required_version,
    tools_key,
    unfetched_modules,
)
from rig.configuration import STORAGE_INITIALIZER_IMAGE, kubelet_config, packet_rules, rig_inference_config
from rig.daemons import daemons
from rig.debian import require_machine
from rig.errors import MissingError, RigError
from rig.images import Image, built_images, pause_image
from rig.layout import Layout, folders
from rig.processes import members


def test_kubernetes_and_helm_are_told_the_version_that_the_go_mod_names() -> None:
    flags = linker_flags("require k8s.io/kubernetes v1.34.4\n")
    assert "version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1" in flags
    assert flags.endswith("helm.sh/helm/v4/pkg/chart/common.k8sVersionMinor=34")


def test_a_module_that_is_only_part_of_another_name_is_not_taken_for_it() -> None:
    assert (
        required_version("\tk8s.io/kubernetes-fork v1.0.0\n\tk8s.io/kubernetes v1.34.4\n", "k8s.io/kubernetes")
        == "v1.34.4"
    )


def test_the_key_of_the_programs_changes_with_modules_sources_and_go_and_not_with_the_folder(tmp_path: Path) -> None:
    def key(name: str, *, go_sum: str = "a\n", source: str = "package main\n", go_version: str = "go1.26.8") -> str:
        folder = tmp_path / name
        (folder / "pause").mkdir(parents=True)
        (folder / "go.mod").write_text("require k8s.io/kubernetes v1.34.4\n")
        (folder / "go.sum").write_text(go_sum)
        (folder / "pause/main.go").write_text(source)
        return tools_key(folder, go_version=go_version)

    same = key("first")
    assert key("second") == same
    assert len({same, key("sum", go_sum="b\n"), key("source", source="\n"), key("go", go_version="go1.27.0")}) == 4


def go_that(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a `go` before all others on the PATH."""
    path.mkdir()
    (path / "go").write_text(f"#!/bin/sh\n{script}\n")
    (path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(path), prepend=":")
    monkeypatch.setattr(binaries, "PAUSE_S", 0.0)


def test_every_program_that_the_rig_starts_is_a_tool_of_its_familys_go_mod(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    started = {Path(daemon.argv[0]) for daemon in daemons(Layout(tmp_path, cache), Binaries(cache))}
    built = {path for path in started if path.is_relative_to(cache)}
    for family, others in ((TOOLS, {"helm", "kubectl", "pause"}), (TRAINER_TOOLS, set())):
        tools = re.findall(r"^\t([\w./-]+?)(?:/v\d+)?$", (family.source / "go.mod").read_text(), re.MULTILINE)
        names = {path.name for path in built if path.parent == Binaries(cache).folder(family)}
        assert names | others == {tool.rpartition("/")[2] for tool in tools}
    assert {path.name for path in built} >= TRAINER_TOOLS.programs


def test_modules_are_fetched_again_where_the_proxy_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "module"
    for folder in ("config/components", "manifests/base"):
        (module / folder).mkdir(parents=True)
    fails_twice = f"""
case $1 in
env) echo go1.26.8 ;;
mod) echo try >>{tmp_path}/tries; [ $(wc -l <{tmp_path}/tries) -gt 2 ] || {{ echo m@v1.0.0: timeout >&2; exit 1; }} ;;
list) echo {module} ;;
esac"""
    go_that(tmp_path / "bin", fails_twice, monkeypatch)
    found = Binaries(tmp_path / "cache")
    ensure_binaries(found)
    for manifests in (found.kserve_manifests, found.trainer_manifests, found.jobset_manifests):
        assert manifests.is_dir()
    assert "cannot fetch or use m@v1.0.0: m@v1.0.0: timeout; 5 tries left" in capsys.readouterr().out
    ensure_binaries(found)
    assert (tmp_path / "tries").read_text() == "try\n" * 4  # the other family has one


def test_a_proxy_that_keeps_failing_is_told_with_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = "[ $1 = mod ] || { echo go1.26.8; exit; }; echo m@v1.0.0: timeout >&2; exit 1"
    go_that(tmp_path / "bin", fails, monkeypatch)
    with pytest.raises(RigError, match=r"go mod failed: cannot fetch or use m@v1\.0\.0: .*timeout"):
        ensure_binaries(Binaries(tmp_path / "cache"))


def test_a_failed_fetch_names_its_modules() -> None:
    output = "go: example.org/a/b@v1.2.3: not found\ngo: example.org/c@v0.1.0-rc.1: timeout\n"
    assert unfetched_modules(output) == ["example.org/a/b@v1.2.3", "example.org/c@v0.1.0-rc.1"]


def test_a_fetch_that_failed_without_a_reason_names_the_module_that_was_tried_last() -> None:
    output = "go: downloading example.org/a v1.0.0\ngo: downloading example.org/b v2.0.0\nmodule lookup disabled\n"
    assert unfetched_modules(output) == ["example.org/b@v2.0.0"]


def test_a_machine_without_root_is_refused_in_one_line_with_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingError, match=r"^the rig needs root[^\n]*$") as refused:
        require_machine()
    assert refused.value.exit_code == 2


def test_rigs_of_different_slots_share_no_address() -> None:
    first, second = (Layout(Path("/a"), Path("/c"), slot) for slot in (0, 1))
    for address in ("name", "node_address", "machine_address", "pod_range", "service_range", "dns_service_address"):
        assert getattr(first, address) != getattr(second, address)


@pytest.mark.parametrize("folder", ["rig", "/var/lib/rig", "/run/rig"])
def test_a_folder_that_the_rig_would_hide_from_itself_is_refused(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("EXFM_RIG_DIR", folder)
    with pytest.raises(RigError, match="EXFM_RIG_DIR"):
        folders()


def test_pods_may_reach_pods_and_the_machine_and_nothing_else() -> None:
    rules = [line.strip() for line in packet_rules(Layout(Path("/r"), Path("/c"))).splitlines()]
    assert rules[rules.index('iifname "uplink" accept') + 1 :] == [
        "ip daddr { 10.88.1.0/24, 10.88.0.2 } accept",
        "counter name dropped drop",
        "}",
        "}",
    ]


def test_what_runs_beside_the_rig_does_not_take_its_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(Path("/r"), Path("/c"))
    monkeypatch.setattr(cgroups, "HIERARCHIES", tmp_path)
    for controller, file in (("cpu", "cpu.shares"), ("memory", "memory.limit_in_bytes")):  # as the kernel makes them
        (tmp_path / controller / layout.name).mkdir(parents=True)
        (tmp_path / controller / "cgroup.procs").touch()
        (tmp_path / controller / layout.name / file).write_text("1024")
    cgroups.create_cgroups(layout)
    assert int((tmp_path / "cpu" / layout.name / "cpu.shares").read_text()) == 20 * 1024
    assert (tmp_path / "memory" / layout.name / "memory.limit_in_bytes").read_text() == "1024"


def test_a_kubelet_keeps_pods_in_the_rigs_own_cgroup() -> None:
    assert yaml.safe_load(kubelet_config(Layout(Path("/r"), Path("/c"), 2)))["cgroupRoot"] == "/exfm-rig2"


def test_kserve_keeps_what_the_rig_does_not_change() -> None:
    data = {
        "deploy": '{"defaultDeploymentMode": "Serverless"}',
        "ingress": '{"urlScheme": "http"}',
        "storageInitializer": '{"image": "x", "cpuLimit": "1"}',
        "router": "{}",
    }
    changed = rig_inference_config(data)
    assert json.loads(changed["deploy"]) == {"defaultDeploymentMode": "Standard"}
    assert json.loads(changed["ingress"])["urlScheme"] == "http"
    assert json.loads(changed["storageInitializer"]) == {"image": STORAGE_INITIALIZER_IMAGE, "cpuLimit": "1"}
    assert changed["router"] == "{}"


def test_the_same_pause_binary_makes_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "pause").write_bytes(b"binary")
    first = pause_image(tmp_path / "first.tar", tmp_path / "pause")
    second = pause_image(tmp_path / "second.tar", tmp_path / "pause")
    assert first.digest == second.digest
    with tarfile.open(first.archive) as archive:
        assert f"blobs/{first.digest.replace(':', '/')}" in archive.getnames()


def test_images_are_imported_in_the_order_that_the_builder_tells() -> None:
    printed = "IMAGE localhost/b:rig /c/b.tar sha256:1\nIMAGE localhost/a:rig /c/a.tar sha256:2\n"
    assert built_images(printed) == [
        Image("localhost/b:rig", Path("/c/b.tar"), "sha256:1"),
        Image("localhost/a:rig", Path("/c/a.tar"), "sha256:2"),
    ]


def test_a_process_that_keeps_changing_its_program_is_found_every_time(tmp_path: Path) -> None:
    layout = Layout(tmp_path, tmp_path)
    name, value = layout.marker.split("=")
    script = 'exec sh -c "$0" "$0"'
    with subprocess.Popen(["sh", "-c", script, script], env=os.environ | {name: value}) as process:
        try:
            assert all([found.pid for found in members(layout)] == [process.pid] for _ in range(100))
        finally:
            process.kill()
