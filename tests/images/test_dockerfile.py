"""What the images promise, as far as their sources tell it; tests/cluster runs the images themselves."""

import hashlib
import json
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from exfm.environment import COMPUTE_ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
IMAGES = REPOSITORY / "images"
INITIALIZER = REPOSITORY / "tests/cluster/images/storage-initializer"
FINAL_STAGES = ("serving", "pipelines")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (keyword, rest) of each instruction, its continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return each stage's instructions by its name, those of the stages that it starts from before its own."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for keyword, rest in instructions(IMAGES / "Dockerfile"):
        if keyword == "FROM":
            parent, _, name = rest.split()
            current = found[name] = [*found.get(parent, [])]
        else:
            current.append((keyword, rest))
    return found


def last(stage: str, keyword: str) -> str:
    return [rest for word, rest in stages()[stage] if word == keyword][-1]


def pins(path: Path) -> dict[str, str]:
    """Return the version of each package that a locked requirements file names."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("stage", FINAL_STAGES)
def test_an_image_sets_the_environment_that_tensors_want(stage: str) -> None:
    settings = dict(
        setting.split("=", 1) for keyword, rest in stages()[stage] if keyword == "ENV" for setting in rest.split()
    )
    assert settings.items() >= COMPUTE_ENVIRONMENT.items()


@pytest.mark.parametrize("stage", FINAL_STAGES)
def test_an_image_runs_as_a_numeric_user_other_than_root(stage: str) -> None:
    assert last(stage, "USER") == "10001:10001"


@pytest.mark.parametrize("stage", FINAL_STAGES)
def test_an_images_command_is_run_without_a_shell(stage: str) -> None:
    assert json.loads(last(stage, "CMD"))
    assert "ENTRYPOINT" not in dict(stages()[stage])


@pytest.mark.parametrize("stage", FINAL_STAGES)
def test_an_image_says_what_it_is(stage: str) -> None:
    labels = " ".join(rest for keyword, rest in stages()[stage] if keyword == "LABEL")
    assert f'title="exfm-{stage}"' in labels
    for label in ("description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in labels


def test_the_images_share_the_layers_up_to_the_serving_dependencies() -> None:
    shared = stages()["serving-dependencies"]
    for stage in FINAL_STAGES:
        assert stages()[stage][: len(shared)] == shared


def passes_dockerignore(path: str) -> bool:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    return any(fnmatch(path, pattern) or path.startswith(f"{pattern}/") for pattern in allowed)


def test_no_image_and_no_wheel_of_exfm_holds_the_benchmarks() -> None:
    assert (REPOSITORY / "benchmarks/exfm_bench/cli.py").is_file()
    assert not passes_dockerignore("benchmarks/exfm_bench/cli.py")
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(package).name for package in wheel["packages"]} == {"exfm", "exfm_components", "exfm_pipelines"}
    assert not [found for package in wheel["packages"] for found in (REPOSITORY / package).rglob("*bench*")]
    assert "bench" not in dependencies_of(REPOSITORY / "pyproject.toml")


def test_everything_that_a_build_copies_passes_dockerignore() -> None:
    copied = [
        source
        for keyword, rest in instructions(IMAGES / "Dockerfile")
        if keyword == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (REPOSITORY / source).exists()
        assert passes_dockerignore(source), source


def test_a_new_version_of_exfm_leaves_the_layers_of_its_dependencies(tmp_path: Path) -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    changed = tmp_path / "pyproject.toml"
    changed.write_text(re.sub(r'^version = ".*"', 'version = "9.9.9"', text, flags=re.MULTILINE))
    assert changed.read_text() != text
    assert dependencies_of(changed) == dependencies_of(REPOSITORY / "pyproject.toml")


def test_a_new_dependency_of_exfm_reaches_its_layer(tmp_path: Path) -> None:
    changed = tmp_path / "pyproject.toml"
    text = (REPOSITORY / "pyproject.toml").read_text()
    changed.write_text(text.replace('"numpy>=2.0,<3",', '"numpy>=2.0,<3", "attrs",'))
    assert "attrs" in dependencies_of(changed)


def dependencies_of(pyproject: Path) -> str:
    return subprocess.run(
        [sys.executable, str(IMAGES / "dependencies.py"), str(pyproject)], capture_output=True, text=True, check=True
    ).stdout


def test_a_build_takes_torch_from_the_index_that_it_is_given() -> None:
    [command] = [rest for keyword, rest in stages()["torch"] if keyword == "RUN" and "install.sh" in rest]
    assert 'TORCH_INDEX="${TORCH_INDEX}" sh /opt/exfm/build/install.sh' in command
    assert ("ARG", "TORCH_INDEX=") in instructions(IMAGES / "Dockerfile")  # empty: the index of all packages
    assert ("ARG", "TORCH_INDEX") in stages()["torch"]


def test_torch_of_another_index_is_installed_by_its_own_hash(tmp_path: Path) -> None:
    write_wheel(tmp_path / "index/torch", "torch", "2.13.0+cpu", requires="filelock")
    needed = write_wheel(tmp_path / "others", "filelock", "3.1")
    other = write_wheel(tmp_path / "index/torch", "torch", "2.14.0")
    lock, wheels, environment = tmp_path / "lock", tmp_path / "wheels", tmp_path / "environment"
    lock.write_text(
        f"filelock==3.1 \\\n    --hash=sha256:{needed}\ntorch==2.13.0 \\\n    --hash=sha256:{'0' * 64} \\\n"
        f"    --hash=sha256:{other}\nuv==1.0 \\\n    --hash=sha256:{other}\n"
    )
    with served_folder(tmp_path / "index") as index:
        script = ["sh", str(IMAGES / "torch_from.sh"), sys.executable, index, str(lock), str(wheels)]
        subprocess.run(script, check=True)
    assert pins(lock) == {"filelock": "3.1", "uv": "1.0", "torch": "2.13.0+cpu"}
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\nversion = "0"\noptional-dependencies.cpu = ["torch>=2.13,<2.14"]\n')
    uv = [sys.executable, "-m", "uv", "--quiet", "--no-config", "--no-cache"]
    subprocess.run([*uv, "venv", str(environment)], check=True)
    folders = [f"--find-links={folder}" for folder in (wheels, tmp_path / "others")]
    wanted = ["--require-hashes", "--constraints", str(lock), "--requirements", str(project), "--extra", "cpu"]
    subprocess.run([*uv, "pip", "install", "--python", str(environment), "--no-index", *folders, *wanted], check=True)
    assert sorted(path.name for path in environment.rglob("*.dist-info")) == [
        "filelock-3.1.dist-info", "torch-2.13.0+cpu.dist-info",
    ]  # fmt: skip


def write_wheel(folder: Path, name: str, version: str, *, requires: str = "") -> str:
    """Write an empty package's wheel, and return its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path, metadata = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    required = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        wheel.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{metadata}/RECORD", "".join(f"{metadata}/{one},,\n" for one in ("METADATA", "WHEEL", "RECORD"))
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    """Yield the address of a folder on loopback, whose listings are a package index."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_fbgemm_for_cuda_has_the_version_of_fbgemm_for_the_cpu() -> None:
    lock = pins(REPOSITORY / "requirements.lock")
    assert pins(IMAGES / "constraints.txt")["fbgemm-gpu"] == lock["fbgemm-gpu-cpu"]


def test_the_build_backend_is_pinned_within_what_pyproject_asks_for() -> None:
    (wanted,) = re.findall(r'^requires = \["(.+)"\]', (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE)
    requirement = Requirement(wanted)
    assert pins(IMAGES / "constraints.txt")[requirement.name] in requirement.specifier


@pytest.mark.parametrize("requirements", [IMAGES / "constraints.txt", INITIALIZER / "requirements.txt"])
def test_what_is_pinned_twice_is_pinned_to_one_version(requirements: Path) -> None:
    lock, again = pins(REPOSITORY / "requirements.lock"), pins(requirements)
    both = lock.keys() & again.keys()
    assert both
    assert {name: again[name] for name in both} == {name: lock[name] for name in both}
