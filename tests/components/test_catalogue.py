"""Other people's pipelines use a component alone."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, dsl

from exfm.cli.main import main
from exfm.events.schemas import MOVIELENS
from exfm_components.catalogue import COMPONENTS, compile_components

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
STAGES = REPOSITORY / "components/exfm_components/stages"
LAYOUT = {"OWNERS", "README.md", "__init__.py", "component.py", "metadata.yaml"}
NAMES = [one.python_func.__name__ for one in COMPONENTS]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the YAML file of each component."""
    folder = tmp_path_factory.mktemp("components")
    return {file.stem: file for file in compile_components(folder, image="repo/image:1")}


def test_each_component_is_a_folder_of_the_layout_and_in_the_catalogue() -> None:
    folders = {file.parent.name: file.parent for file in STAGES.glob("*/*/component.py")}
    assert sorted(folders) == sorted(NAMES)
    for folder in folders.values():
        assert {file.name for file in folder.iterdir() if file.is_file()} == LAYOUT
        metadata = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
        assert metadata["name"] == folder.name
        assert metadata["stability"] in ("experimental", "alpha", "beta", "stable")
        assert {"name": "Pipelines", "version": ">=2.17.0"} in metadata["dependencies"]["kubeflow"]
        assert yaml.safe_load((folder / "OWNERS").read_text(encoding="utf-8"))["approvers"]


def test_the_readmes_and_the_page_are_current() -> None:
    check = [sys.executable, str(REPOSITORY / "components/document.py"), "--check"]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.parametrize("component", COMPONENTS, ids=NAMES)
def test_kubeflow_shows_what_a_component_and_all_it_takes_and_leaves_mean(component: Any) -> None:
    spec = component.component_spec
    described = {"the component": spec, **(spec.inputs or {}), **(spec.outputs or {})}
    assert [name for name, one in described.items() if not one.description] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_a_file_that_any_pipeline_can_load(compiled: dict[str, Path], name: str) -> None:
    loaded = components.load_component_from_file(str(compiled[name]))
    [executor] = yaml.safe_load(compiled[name].read_text(encoding="utf-8"))["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == "repo/image:1"
    original = next(one for one in COMPONENTS if one.python_func.__name__ == name).component_spec
    assert (loaded.component_spec.inputs or {}).keys() == (original.inputs or {}).keys()
    assert (loaded.component_spec.outputs or {}).keys() == (original.outputs or {}).keys()


def test_a_pipeline_joins_files_of_components_by_their_outputs(compiled: dict[str, Path]) -> None:
    train, bundle = (components.load_component_from_file(str(compiled[n])) for n in ("train_vertical", "make_bundle"))

    @dsl.pipeline(name="foreign")
    def foreign(run: dict, root: str, vertical_model: dict) -> None:
        trained = train(run=run, root=root, vertical_model=vertical_model)
        bundle(run=run, root=root, vertical_model=vertical_model, vertical=trained.outputs["Output"])

    tasks = foreign.pipeline_spec.root.dag.tasks
    taken = tasks["make-bundle"].inputs.parameters["vertical"].task_output_parameter
    assert (taken.producer_task, taken.output_parameter_key) == ("train-vertical", "Output")


def test_the_command_writes_a_file_for_each_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["exfm", "pipelines", "components", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.yaml" for name in NAMES}


def test_the_pages_pipeline_compiles_where_only_the_extras_that_it_names_are(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/components.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "prepare.py").write_text(block, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        f"name: ads\nroot: s3://models/ads\nfeature_schema: {MOVIELENS}\nsource: {{kind: synthetic}}\n"
        "window_length: 100\nvertical_models: [{name: search}]\n",
        encoding="utf-8",
    )
    hidden = ("torch", "fbgemm_gpu", "mlflow", "fastapi", "numba", "s3fs")
    program = f"import sys; sys.modules |= dict.fromkeys({hidden}); import prepare"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    spec, _ = yaml.safe_load_all((tmp_path / "prepare.yaml").read_text(encoding="utf-8"))
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks.keys() == {"ingest", "make-labels"}
    assert tasks["make-labels"]["dependentTasks"] == ["ingest"]
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks.values())
