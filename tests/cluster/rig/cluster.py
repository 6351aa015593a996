"""Brings a rig up, checks it, restarts a daemon of it, and takes it down."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rig import addons, debian, images, kserve, sandbox, supervisor, trainer
from rig.api import Api
from rig.binaries import Binaries, ensure_binaries
from rig.certificates import write_certificates
from rig.configuration import (
    cleaning_containerd_config,
    cni_config,
    containerd_config,
    corefile,
    jobset_config,
    kubelet_config,
    proxy_config,
    trainer_config,
)
from rig.daemons import Daemon, daemons
from rig.errors import RigError
from rig.health import probes, serves_kubelets
from rig.layout import WEBHOOK_PORTS, Layout
from rig.processes import daemon_pid, init_pid
from rig.progress import step
from rig.waiting import wait_for


def find(folder: Path, cache: Path) -> Layout:
    """Return the layout of the rig in a folder; its slot is 0 where there is none yet."""
    return Layout(folder, cache, _state(folder).get("slot", 0))


def is_up(layout: Layout) -> bool:
    """Return whether an `up` came to its end and the rig's first process still lives."""
    return bool(_state(layout.folder).get("complete")) and init_pid(layout) is not None


def up(folder: Path, cache: Path, *, with_images: bool) -> Layout:
    """Bring a rig up and return its layout; one that is up already gets back the daemons that it has lost.

    What an interrupted `up` left is taken down first.
    """
    debian.require_machine()
    layout = find(folder, cache)
    if is_up(layout):
        for daemon in _started(layout):
            if daemon_pid(layout, daemon.name) is None:
                restart(layout, daemon.name)
        with step("all daemons well"):
            _await(layout, *probes(layout))
        if with_images:
            bring_images(layout)
        return layout
    if layout.folder.exists():
        with step("take down what an earlier start left"):
            sandbox.destroy(layout)
    debian.install_packages()
    binaries = Binaries(cache)
    ensure_binaries(binaries)
    layout = Layout(folder, cache, sandbox.free_slot())
    layout.folder.mkdir(parents=True)
    _write_state(layout, complete=False, started=daemons(layout, binaries))
    for made in (layout.logs, layout.pids, layout.pki, layout.config / "cni", layout.containerd_root):
        made.mkdir(parents=True, exist_ok=True)
    _raise(layout, binaries)
    _write_state(layout, complete=True, started=daemons(layout, binaries))
    if with_images:
        bring_images(layout)
    return layout


def bring_images(layout: Layout) -> None:
    """Build the project's images where their sources changed, and import those that containerd lacks."""
    images.import_images(layout, images.build_images(layout))


def restart(layout: Layout, name: str) -> None:
    """Stop a daemon where it runs, start it as it was started first, and wait until it works."""
    named = {daemon.name: daemon for daemon in _started(layout)}
    if name not in named:
        raise RigError(f"the rig has no daemon {name!r}; it has {', '.join(named)}")
    with step(f"restart {name}"):
        supervisor.stop(layout, name)
        supervisor.start(layout, named[name])
        _await(layout, name)


def daemon_pids(layout: Layout) -> dict[str, int | None]:
    """Return each daemon's pid, or None where it is not running."""
    return {daemon.name: daemon_pid(layout, daemon.name) for daemon in _started(layout)}


def _state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(Layout(folder, folder).state_file.read_text())
    except FileNotFoundError:
        return {}
    return state


def _write_state(layout: Layout, *, complete: bool, started: list[Daemon]) -> None:
    state = {"slot": layout.slot, "complete": complete, "daemons": [asdict(daemon) for daemon in started]}
    partial = layout.cache / f"state-{layout.slot}.partial"
    partial.write_text(json.dumps(state, indent=2))
    shutil.move(partial, layout.state_file)


def _started(layout: Layout) -> list[Daemon]:
    return [
        Daemon(value["name"], tuple(value["argv"]), value["environment"])
        for value in _state(layout.folder).get("daemons", [])
    ]


def _await(layout: Layout, *names: str) -> None:
    ready = probes(layout)
    for name in names:
        supervisor.await_daemon(layout, name, ready[name])


def _raise(layout: Layout, binaries: Binaries) -> None:
    """Start everything in order. What takes long to get ready is started early and awaited late."""
    named = {daemon.name: daemon for daemon in daemons(layout, binaries)}
    pause, manifests = Path(binaries("pause")), binaries.kserve_manifests
    trainer_manifests = (binaries.trainer_manifests, binaries.jobset_manifests)
    with step("certificates, configuration, namespaces"):
        write_certificates(layout)
        _write_configuration(layout)
        sandbox.create(layout, pause=str(pause))
    with step("etcd, kube-apiserver, containerd"):
        supervisor.start(layout, named["etcd"])
        supervisor.start(layout, named["kube-apiserver"])
        _forget_containers(layout, named["containerd"])
        supervisor.start(layout, named["containerd"])
        _await(layout, "containerd")
        images.import_images(layout, [images.pause_image(layout.folder / "pause.tar", pause)])
        supervisor.await_daemon(layout, "containerd", partial(serves_kubelets, layout))
        _await(layout, "kube-apiserver")
    api, authority = Api(layout), (layout.pki / "ca.crt").read_bytes()
    with step("controllers, scheduler, kubelet, kube-proxy, DNS, metrics"):
        for name in ("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns", "metrics-server"):
            supervisor.start(layout, named[name])
        for path, value in [*addons.dns_objects(layout), *addons.metrics_objects(layout, authority=authority)]:
            api.apply(path, value)
    with step("definitions and configuration of KServe, JobSet and Trainer"):
        definitions = kserve.definition_files(manifests) | trainer.definition_files(*trainer_manifests)
        _create_definitions(api, definitions)
        configured = [kserve.NAMESPACE, *kserve.config_objects(manifests)]
        for path, value in [*configured, *trainer.public_objects(binaries.trainer_manifests)]:
            api.apply(path, value)
    with step("controllers and webhooks of KServe, JobSet and Trainer"):
        for name in WEBHOOK_PORTS:
            supervisor.start(layout, named[name])
        _await(layout, *WEBHOOK_PORTS)
        called = kserve.webhook_objects(manifests, authority=authority)
        called += trainer.webhook_objects(*trainer_manifests, authority=authority)
        for path, value in called:
            api.apply(path, value)
    with step("node and daemons ready"):
        _await(layout, *named)
    shutil.copyfile(layout.pki / "admin.kubeconfig", layout.kubeconfig)
    layout.kubeconfig.chmod(0o600)


def _write_configuration(layout: Layout) -> None:
    texts = {
        "containerd.toml": containerd_config(layout),
        "containerd-cleaning.toml": cleaning_containerd_config(layout),
        "cni/10-rig.conflist": cni_config(layout),
        "kubelet.yaml": kubelet_config(layout),
        "kube-proxy.yaml": proxy_config(layout),
        "Corefile": corefile(layout),
        "jobset.yaml": jobset_config(layout),
        "trainer.yaml": trainer_config(layout),
        "resolv.conf": "",
    }
    for name, text in texts.items():
        (layout.config / name).write_text(text)
    for controller in WEBHOOK_PORTS:
        serving = layout.folder / controller / "k8s-webhook-server/serving-certs"
        serving.mkdir(parents=True)
        shutil.copyfile(layout.pki / f"{controller}.crt", serving / "tls.crt")
        shutil.copyfile(layout.pki / f"{controller}.key", serving / "tls.key")


def _forget_containers(layout: Layout, containerd: Daemon) -> None:
    """Delete the containers and leases of the rig before, whose store this one takes over for its images."""
    argv = tuple(argument.replace("containerd.toml", "containerd-cleaning.toml") for argument in containerd.argv)
    supervisor.start(layout, Daemon(containerd.name, argv))
    _await(layout, "containerd")
    for what in ("containers", "leases"):
        if found := sandbox.inside(layout, *images.CTR, what, "list", "--quiet").split():
            sandbox.inside(layout, *images.CTR, what, "delete", *found)
    supervisor.stop(layout, "containerd")


def _create_definitions(api: Api, definitions: Mapping[str, Path]) -> None:
    """Create custom resource definitions and wait until discovery lists them, which is when they are established."""

    def create(file: Path) -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        api.call("POST", path, file.read_bytes(), kind="application/yaml")

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(create, definitions.values()))
    groups: dict[str, set[str]] = {}
    for name in definitions:
        resource, _, group = name.partition(".")
        groups.setdefault(group, set()).add(resource)
    # Not by each definition's status: the largest has 2 MB, which would be read over and over.
    for group, wanted in groups.items():
        wait_for(partial(_are_served, api, group, wanted), what=f"definitions of {group}", pause_s=0.2)


def _are_served(api: Api, group: str, wanted: set[str]) -> bool:
    return wanted <= api.resources(group)
