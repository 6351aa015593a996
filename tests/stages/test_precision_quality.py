"""What a model is worth with its dense layers in another precision."""

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from exfm.artifact.bundle import (
    DENSE_FILE,
    GOLDEN_REQUEST,
    GOLDEN_RESPONSE,
    BundleManifest,
    find_bundle,
    seal_bundle,
)
from exfm.artifact.storage import Ref
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.errors import BundleError, ConfigError
from exfm.events.examples import ExampleTable
from exfm.planning.config import ShardingConfig
from exfm_bench.precision import bench_precision, measured

pytestmark = pytest.mark.slow

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no VNNI")


@needs_vnni
def test_each_precision_has_its_quality_and_its_time(bundle: Ref, examples: ExampleTable) -> None:
    found, missing = measured(Path(bundle.uri), examples=examples, num_examples=500)
    assert [one.precision for one in found] == ["fp32", "bf16", "int8"]
    assert not missing
    assert (found[0].largest_shift, found[0].time_ratio) == (0, 1)
    exact = found[0].qualities["click"].normalized_entropy
    assert exact is not None
    for one in found[1:]:
        assert 1e-5 < one.largest_shift < 0.02
        assert one.qualities["click"].normalized_entropy == pytest.approx(exact, rel=1e-3)
        assert one.qualities["click"].normalized_entropy != exact
        assert one.time_ratio > 0


def test_tables_of_another_bundle_are_what_it_is_compared_with(
    bundle: Ref, vertical: Ref, examples: ExampleTable, tmp_path: Path
) -> None:
    config = BundleConfig(golden_candidates=20, sharding=ShardingConfig(num_shards=1, encoding="fp32"))
    make_bundle(config, vertical=vertical, out=str(tmp_path / "exact"))
    found, _ = measured(
        Path(bundle.uri), examples=examples, num_examples=500, beside=Path(find_bundle(str(tmp_path / "exact")))
    )
    assert [(one.precision, one.tables) for one in found[:3]] == [("fp32", "fp32"), ("fp32", "int8"), ("bf16", "int8")]
    exact, rounded = (one.qualities["click"].normalized_entropy for one in found[:2])
    assert (found[0].largest_shift, found[0].time_ratio) == (0, 1)
    assert 0 < found[1].largest_shift < 0.02
    assert exact is not None
    assert rounded == pytest.approx(exact, rel=2e-3)
    assert rounded != exact


def test_a_bundle_of_another_model_is_no_measure(bundle: Ref, examples: ExampleTable, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(Path(bundle.uri), folder)
    old = BundleManifest.read(folder)
    weights = load_file(folder / DENSE_FILE)
    save_file({name: weight + 1 for name, weight in weights.items()}, folder / DENSE_FILE)
    seal_bundle(
        folder,
        old,
    )
    with pytest.raises(ConfigError, match=r"other and .* are not of one model: dense layers or features differ"):
        measured(Path(bundle.uri), examples=examples, num_examples=100, beside=folder)


def test_a_precision_that_cannot_be_had_here_is_told(
    bundle: Ref, examples: ExampleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    console = Console(width=200, record=True)
    bench_precision(console, Path(bundle.uri), examples=examples, num_examples=100)
    text = console.export_text()
    assert "bf16" in text
    assert "dense_precision is 'int8', but this CPU has no VNNI instructions" in text
    assert "the model has learned from them" in text


def test_a_bundle_without_a_golden_query_is_refused(bundle: Ref, examples: ExampleTable, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(Path(bundle.uri), folder)
    old = BundleManifest.read(folder)
    (folder / GOLDEN_REQUEST).unlink()
    (folder / GOLDEN_RESPONSE).unlink()
    seal_bundle(
        folder,
        old,
    )
    with pytest.raises(BundleError, match="has no golden query"):
        measured(folder, examples=examples, num_examples=100)
