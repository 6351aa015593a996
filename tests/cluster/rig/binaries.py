"""The programs of the rig, built from Go modules that tests/cluster/tools pins, once per content.

A family is a folder with a go.mod whose `tool` directives name the commands. Its binaries lie in the cache, in a folder
named by the hash of the family's files and flags.
"""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rig.errors import MissingError, RigError
from rig.progress import step

TOOLS = Path(__file__).parent.parent / "tools"
FAMILIES = ("pause", "etcd", "kubernetes", "kserve", "coredns", "metrics-server", "helm")
# Manifests that belong to a program, from its module's folder.
MANIFESTS = {"kserve": ("github.com/kserve/kserve", "config")}
_BLAMED = re.compile(r"([\w.~/-]+@v[\w.+-]+)")
_LAST_TRIED = re.compile(r".*go: downloading (\S+) (v\S+)", re.DOTALL)


@dataclass(frozen=True)
class Binaries:
    """Where each family's binaries lie."""

    cache: Path

    def family(self, name: str) -> Path:
        """Return the folder of the family's binaries, whether it exists or not."""
        return self.cache / "bin" / f"{name}-{family_key(TOOLS / name)}"

    def __call__(self, family: str, command: str) -> str:
        """Return the path of one binary."""
        return str(self.family(family) / command)


def required_version(go_mod: str, module: str) -> str:
    """Return the version of a module in a go.mod's text, which names what is selected. Raises: KeyError."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise KeyError(module)
    return found[1]


def linker_flags(family: str, go_mod: str) -> str:
    """Return what the linker is told. Kubernetes knows its own version only from here."""
    flags = ["-s", "-w"]
    if family == "kubernetes":
        version = required_version(go_mod, "k8s.io/kubernetes")
        major, minor = version.removeprefix("v").split(".")[:2]
        values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        flags += [f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items()]
    return " ".join(flags)


def family_key(folder: Path) -> str:
    """Return the hash of a family's files and of the flags that it is built with."""
    digest = hashlib.sha256(linker_flags(folder.name, (folder / "go.mod").read_text()).encode())
    for file in sorted(folder.iterdir()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def unfetched_modules(output: str) -> list[str]:
    """Return the modules that Go's output complains of, each as module@version; or else the last that it tried."""
    if blamed := sorted(set(_BLAMED.findall(output))):
        return blamed
    tried = _LAST_TRIED.match(output)
    return [f"{tried[1]}@{tried[2]}"] if tried else []


def ensure_binaries(binaries: Binaries) -> None:
    """Build every family that the cache lacks. Raises: MissingError without Go, RigError where a build fails."""
    for family in FAMILIES:
        target = binaries.family(family)
        if target.exists():
            continue
        if shutil.which("go") is None:
            raise MissingError("the rig needs Go to build Kubernetes and KServe, and finds no `go` on the PATH")
        with step(f"build {family}, once"):
            _build(family, target)


def _build(family: str, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    scratch = partial / ".go"
    scratch.mkdir(parents=True)
    folder = TOOLS / family
    flags = linker_flags(family, (folder / "go.mod").read_text())
    environment = os.environ | {"CGO_ENABLED": "0", "GOTMPDIR": str(scratch)}

    def go(*arguments: str) -> str:
        process = subprocess.run(["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        if process.returncode != 0:
            unfetched = unfetched_modules(process.stderr)
            last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
            reason = f"cannot fetch or use {', '.join(unfetched)}: {last}" if unfetched else process.stderr[-2000:]
            raise RigError(f"go {arguments[0]} of {family} failed: {reason}")
        return process.stdout.strip()

    go("build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", f"{partial}/", "tool")
    if family in MANIFESTS:
        module, subfolder = MANIFESTS[family]
        shutil.copytree(Path(go("list", "-m", "-f", "{{.Dir}}", module)) / subfolder, partial / subfolder)
        subprocess.run(["chmod", "-R", "u+w", str(partial / subfolder)], check=True)  # the module cache is read-only
    shutil.rmtree(scratch)
    partial.rename(target)
