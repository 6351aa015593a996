"""The lineage of registered models whose run's tables moved to another root."""

import shutil
from pathlib import Path

import pytest
from stream import Stream
from test_registry import PASSED

from exfm.artifact.storage import Ref, ref_to
from exfm.errors import DataError
from exfm.registry.foundations import register_foundation
from exfm.registry.lineage import lineage_of
from exfm.registry.mlflow_registry import Registry
from exfm.registry.registration import register_all

pytestmark = pytest.mark.slow


@pytest.fixture
def moved(
    registry: Registry, stream: Stream, foundation: Ref, vertical: Ref, bundle: Ref, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """Return the root that the tables moved to, after a server's registry got one model of each kind."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    root, moved = tmp_path / "root", tmp_path / "moved"
    shutil.copytree(stream.root / "tables", root / "tables")
    place = root / "bundle" / "search-ads" / Path(bundle.uri).name
    shutil.copytree(bundle.uri, place)
    register_foundation(registry, model=foundation, root=str(root))
    register_all(root=str(root), models=[vertical], bundles=[ref_to(str(place))], judgements=[PASSED])
    root.rename(moved)
    return moved


@pytest.mark.parametrize("named", ["models:/fm/1", "models:/search-ads/1"])
def test_a_model_of_either_kind_is_traced_in_the_tables_of_the_root_that_is_named(moved: Path, named: str) -> None:
    with pytest.raises(DataError, match=rf"^{moved.parent}: no table there has the state .+; name the root of"):
        lineage_of(named, root=str(moved.parent))
    [state] = lineage_of(named, root=str(moved)).made_from
    assert ": learned " in state.text
    assert state.made_from


@pytest.mark.parametrize("named", ["models:/fm/1", "models:/search-ads/1"])
def test_states_of_the_same_names_in_another_run_are_not_taken_for_a_models_own(moved: Path, named: str) -> None:
    registered = moved.rename(moved.parent / "root")
    shutil.copytree(registered / "tables/snapshots", moved / "tables/snapshots")
    expected = lineage_of(named, root=str(registered))
    assert ": learned " in expected.made_from[0].text
    assert lineage_of(named, root=str(moved)) == expected
