"""`python -m rig up | down | images | restart NAME | status | env | run COMMAND...`."""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from rig import cluster, debian, sandbox
from rig.binaries import Binaries
from rig.errors import RigError
from rig.layout import Layout, folders
from rig.progress import say

PATIENCE_S = 30.0


def main() -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(prog="rig", description="A real Kubernetes with KServe on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring it up, or check that it is up and well")
    up.add_argument("--no-images", action="store_true", help="leave the project's images alone")
    commands.add_parser("down", help="take it down and leave nothing behind")
    commands.add_parser("images", help="build the project's images and import what is new")
    commands.add_parser("status", help="print each daemon and its pid")
    commands.add_parser("env", help="print the environment that tests want, for a shell's eval")
    commands.add_parser("restart", help="restart one daemon").add_argument("name")
    run = commands.add_parser("run", help="run a command against KUBECONFIG, or against a rig that is up just for it")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        folder, cache = folders()
        match arguments.command:
            case "up":
                _as_member(Layout(folder, cache))
                _up(folder, cache, with_images=not arguments.no_images)
            case "down":
                debian.require_machine()
                sandbox.destroy(cluster.find(folder, cache))
            case "images":
                cluster.bring_images(_found(folder, cache))
            case "status":
                for name, pid in cluster.daemon_pids(_found(folder, cache)).items():
                    say(f"{name} {pid or '-'}")
            case "env":
                for name, value in environment(_found(folder, cache)).items():
                    say(f"export {name}={value}")
            case "restart":
                cluster.restart(_found(folder, cache), arguments.name)
            case "run":
                return _run(arguments.argv, folder, cache)
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def environment(layout: Layout) -> dict[str, str]:
    """Return what tests find the rig and its programs by."""
    binaries = Binaries(layout.cache)
    return {
        "KUBECONFIG": str(layout.kubeconfig),
        "EXFM_KUBECTL": binaries("kubectl"),
        "EXFM_HELM": binaries("helm"),
        "EXFM_RIG_DIR": str(layout.folder),
        "EXFM_RIG_CACHE": str(layout.cache),
        "EXFM_RIG_MACHINE_ADDRESS": layout.machine_address,
    }


def _found(folder: Path, cache: Path) -> Layout:
    layout = cluster.find(folder, cache)
    if not cluster.is_up(layout):
        raise RigError(f"no rig is up in {folder}; run `make cluster`")
    return layout


def _as_member(layout: Layout) -> None:
    """Start this program again as one that `down` knows by its environment, so that it ends an `up` that goes on."""
    name, value = layout.marker.split("=", 1)
    if os.environ.get(name) != value:
        os.execve(sys.executable, [sys.executable, "-m", "rig", *sys.argv[1:]], os.environ | {name: value})


def _up(folder: Path, cache: Path, *, with_images: bool) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ended with this process, however it ends
        was_up = cluster.is_up(cluster.find(folder, cache))
        layout = cluster.up(folder, cache, with_images=with_images)
    say(f"{'up already' if was_up else 'up'}; export KUBECONFIG={layout.kubeconfig}")


def _run(argv: list[str], folder: Path, cache: Path) -> int:
    """Run a command and return its exit code; a rig that was not up before is taken down after, come what may."""
    if os.environ.get("KUBECONFIG"):
        found = {f"EXFM_{name.upper()}": shutil.which(name) for name in ("kubectl", "helm")}
        programs = {name: path for name, path in found.items() if path}
        return subprocess.run(argv, env=programs | os.environ, check=False).returncode
    debian.require_machine()
    was_up = cluster.is_up(cluster.find(folder, cache))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        started = subprocess.run([sys.executable, "-m", "rig", "up"], check=False).returncode
        if started != 0:
            return started
        environ = os.environ | environment(cluster.find(folder, cache))
        return _attend(argv, environ)
    finally:
        if not was_up:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sandbox.destroy(cluster.find(folder, cache))


def _attend(argv: list[str], environ: dict[str, str]) -> int:
    """Run a command and return its exit code; where this process is told to end, it waits for the command's own end."""
    with subprocess.Popen(argv, env=environ) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with suppress(subprocess.TimeoutExpired):  # the terminal has interrupted both
                process.wait(PATIENCE_S)
            raise
        except SystemExit:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            raise
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
