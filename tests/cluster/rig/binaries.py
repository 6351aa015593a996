"""The programs of the rig, built from Go modules that tests/cluster/tools pins, once per content.

One go.mod for all, whose `tool` directives name the commands: what several of them import is compiled once. They lie in
the cache, in a folder named by the hash of what they are made of.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rig.errors import MissingError, RigError
from rig.progress import say, step

TOOLS = Path(__file__).parent.parent / "tools"
KSERVE, KSERVE_MANIFESTS = "github.com/kserve/kserve", "config"
FETCHES, FETCH_TIMEOUT_S, PAUSE_S = 6, 600.0, 10.0
# Without inlining and what only a debugger reads, and with the compiler's memory seldom collected: half its time.
BUILD, COMPILERS_GOGC = ("build", "-trimpath", "-buildvcs=false", "-gcflags=all=-l -dwarf=false"), "400"
_BLAMED = re.compile(r"([\w.~/-]+@v[\w.+-]+)")
_LAST_TRIED = re.compile(r".*go: downloading (\S+) (v\S+)", re.DOTALL)


@dataclass(frozen=True)
class Binaries:
    """Where the programs lie."""

    cache: Path

    @cached_property
    def folder(self) -> Path:
        """Return the folder of the programs, whether it exists or not. Raises: MissingError without Go."""
        return self.cache / "bin" / tools_key(TOOLS, go_version=_go("env", "GOVERSION"))

    @property
    def kserve_manifests(self) -> Path:
        """Return the folder of KServe's own manifests, as its module has it."""
        return self.folder / KSERVE_MANIFESTS

    def __call__(self, command: str) -> str:
        """Return the path of one program."""
        return str(self.folder / command)


def required_version(go_mod: str, module: str) -> str:
    """Return the version of a module in a go.mod's text, which names what is selected. Raises: KeyError."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise KeyError(module)
    return found[1]


def linker_flags(go_mod: str) -> str:
    """Return what the linker is told. Only from here Kubernetes knows its version, and Helm that of a cluster's."""
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
    """Build the programs if the cache lacks them. Raises: MissingError without Go, RigError where that fails.

    What an earlier try fetched and compiled is in Go's own caches, and is not made again.
    """
    target = binaries.folder
    if target.exists():
        return
    with step("fetch Go modules, once"):
        _fetch()
    with step("build Kubernetes, KServe and the tools, once"):
        _build(target)


def _fetch() -> None:
    """Fetch every module; a proxy that is slow or fails is asked again, for what is missing."""
    for left in reversed(range(FETCHES)):
        try:
            _go("mod", "download", timeout_s=FETCH_TIMEOUT_S)
            return
        except RigError as error:
            if not left:
                raise
            say(f"  {error}; {left} tries left")
            time.sleep(PAUSE_S)


def _build(target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    scratch = partial / ".go"
    scratch.mkdir(parents=True)
    flags = linker_flags((TOOLS / "go.mod").read_text())
    _go(*BUILD, "-ldflags", flags, "-o", f"{partial}/", "tool", GOTMPDIR=str(scratch), GOGC=COMPILERS_GOGC)
    manifests = partial / KSERVE_MANIFESTS
    shutil.copytree(Path(_go("list", "-m", "-f", "{{.Dir}}", KSERVE)) / KSERVE_MANIFESTS, manifests)
    subprocess.run(["chmod", "-R", "u+w", str(manifests)], check=True)  # the module cache is read-only
    shutil.rmtree(scratch)
    partial.rename(target)


def _go(*arguments: str, timeout_s: float | None = None, **environment: str) -> str:
    if shutil.which("go") is None:
        raise MissingError("the rig needs Go to build Kubernetes and KServe, and finds no `go` on the PATH")
    try:
        process = subprocess.run(
            ["go", *arguments], cwd=TOOLS, env={**os.environ, "CGO_ENABLED": "0", **environment},
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
