"""The programs of the rig, built from Go modules that tests/cluster/*tools pin, once per content.

A family of programs has one go.mod, whose `tool` directives name the commands: what several of them import is compiled
once. Programs whose modules exclude each other are in different families. A family's programs lie in the cache, in a
folder named by the hash of what they are made of.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rig.errors import MissingError, RigError
from rig.progress import say, step


@dataclass(frozen=True)
class Family:
    """Programs of one go.mod."""

    source: Path
    """Folder of the go.mod."""
    manifests: Mapping[str, tuple[str, str]]
    """By module, the folder of its manifests in the module, and the name of their copy beside the programs."""
    programs: frozenset[str] = frozenset()
    """Names of its programs; empty: all that are in no other family."""


TOOLS = Family(Path(__file__).parent.parent / "tools", {"github.com/kserve/kserve": ("config", "config")})
TRAINER_TOOLS = Family(
    Path(__file__).parent.parent / "trainer-tools",
    {
        "github.com/kubeflow/trainer/v2": ("manifests/base", "trainer-manifests"),
        "sigs.k8s.io/jobset": ("config/components", "jobset-manifests"),
    },
    frozenset({"jobset", "trainer-controller-manager"}),
)
FETCHES, FETCH_TIMEOUT_S, PAUSE_S = 6, 600.0, 10.0
# Without inlining and what only a debugger reads, and with the compiler's memory seldom collected: half its time.
BUILD, COMPILERS_GOGC = ("build", "-trimpath", "-buildvcs=false", "-gcflags=all=-l -dwarf=false"), "400"
_BLAMED = re.compile(r"([\w.~/-]+@v[\w.+-]+)")
_LAST_TRIED = re.compile(r".*go: downloading (\S+) (v\S+)", re.DOTALL)


@dataclass(frozen=True)
class Binaries:
    """Where the programs lie."""

    cache: Path

    def folder(self, family: Family) -> Path:
        """Return the folder of a family's programs, whether it exists or not. Raises: MissingError without Go."""
        return self.cache / "bin" / tools_key(family.source, go_version=_go_version())

    @property
    def kserve_manifests(self) -> Path:
        """Return the folder of KServe's own manifests, as its module has it."""
        return self.folder(TOOLS) / "config"

    @property
    def trainer_manifests(self) -> Path:
        """Return the folder of Kubeflow Trainer's own manifests."""
        return self.folder(TRAINER_TOOLS) / "trainer-manifests"

    @property
    def jobset_manifests(self) -> Path:
        """Return the folder of JobSet's own manifests."""
        return self.folder(TRAINER_TOOLS) / "jobset-manifests"

    def __call__(self, command: str) -> str:
        """Return the path of one program."""
        family = TRAINER_TOOLS if command in TRAINER_TOOLS.programs else TOOLS
        return str(self.folder(family) / command)


@cache
def _go_version() -> str:
    return _go("env", "GOVERSION", folder=TOOLS.source)


def required_version(go_mod: str, module: str) -> str:
    """Return the version of a module in a go.mod's text, which names what is selected. Raises: KeyError."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise KeyError(module)
    return found[1]


def linker_flags(go_mod: str) -> str:
    """Return what the linker is told. Only from here Kubernetes knows its version, and Helm that of a cluster's."""
    if "k8s.io/kubernetes " not in go_mod:
        return "-s -w"
    version = required_version(go_mod, "k8s.io/kubernetes")
    major, minor = version.removeprefix("v").split(".")[:2]
    kubernetes, helm = "k8s.io/component-base/version", "helm.sh/helm/v4/pkg/chart/common"
    values = {f"{kubernetes}.gitVersion": version, f"{kubernetes}.gitMajor": major, f"{kubernetes}.gitMinor": minor}
    values |= {f"{helm}.k8sVersionMajor": major, f"{helm}.k8sVersionMinor": minor}
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in values.items())])


def tools_key(folder: Path, *, go_version: str) -> str:
    """Return the hash of what the programs are made of: modules, sources, flags and Go itself."""
    flags = [*BUILD, linker_flags((folder / "go.mod").read_text())]
    digest = hashlib.sha256("\0".join([go_version, *flags]).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"\0{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def unfetched_modules(output: str) -> list[str]:
    """Return the modules that Go's output complains of, each as module@version; or else the last that it tried."""
    if blamed := sorted(set(_BLAMED.findall(output))):
        return blamed
    tried = _LAST_TRIED.match(output)
    return [f"{tried[1]}@{tried[2]}"] if tried else []


def ensure_binaries(binaries: Binaries) -> None:
    """Build the programs that the cache lacks. Raises: MissingError without Go, RigError where that fails.

    What an earlier try fetched and compiled is in Go's own caches, and is not made again.
    """
    for family, what in ((TOOLS, "Kubernetes, KServe and the tools"), (TRAINER_TOOLS, "Kubeflow Trainer and JobSet")):
        target = binaries.folder(family)
        if not target.exists():
            with step(f"fetch Go modules of {what}, once"):
                _fetch(family)
            with step(f"build {what}, once"):
                _build(family, target)


def _fetch(family: Family) -> None:
    """Fetch every module; a proxy that is slow or fails is asked again, for what is missing."""
    for left in reversed(range(FETCHES)):
        try:
            _go("mod", "download", folder=family.source, timeout_s=FETCH_TIMEOUT_S)
            return
        except RigError as error:
            if not left:
                raise
            say(f"  {error}; {left} tries left")
            time.sleep(PAUSE_S)


def _build(family: Family, target: Path) -> None:
    partial, source = target.with_name(f"{target.name}.partial"), family.source
    shutil.rmtree(partial, ignore_errors=True)
    scratch = partial / ".go"
    scratch.mkdir(parents=True)
    arguments = (*BUILD, "-ldflags", linker_flags((source / "go.mod").read_text()), "-o", f"{partial}/", "tool")
    _go(*arguments, folder=source, GOTMPDIR=str(scratch), GOGC=COMPILERS_GOGC)
    for module, (folder, name) in family.manifests.items():
        directory = _go("list", "-m", "-f", "{{.Dir}}", module, folder=source)
        shutil.copytree(Path(directory) / folder, partial / name)
        subprocess.run(["chmod", "-R", "u+w", str(partial / name)], check=True)  # the module cache is read-only
    shutil.rmtree(scratch)
    partial.rename(target)


def _go(*arguments: str, folder: Path, timeout_s: float | None = None, **environment: str) -> str:
    if shutil.which("go") is None:
        raise MissingError("the rig needs Go to build Kubernetes and KServe, and finds no `go` on the PATH")
    try:
        process = subprocess.run(
            ["go", *arguments], cwd=folder, env={**os.environ, "CGO_ENABLED": "0", **environment},
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        raise RigError(f"go {arguments[0]} is not done after {timeout_s:.0f} s") from expired
    if process.returncode != 0:
        unfetched = unfetched_modules(process.stderr)
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        reason = f"cannot fetch or use {', '.join(unfetched)}: {last}" if unfetched else process.stderr[-2000:]
        raise RigError(f"go {arguments[0]} failed: {reason}")
    return process.stdout.strip()
