"""What a model is worth while its shards are away."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from exfm.artifact.bundle import BundleManifest, seal_bundle
from exfm.artifact.fallback_rows import FALLBACK_FILE
from exfm.artifact.storage import Ref
from exfm.errors import BundleError
from exfm.events.examples import ExampleTable
from exfm_bench.degraded import bench_degraded, losses

pytestmark = pytest.mark.slow


def test_quality_is_told_complete_without_each_shard_and_without_any(bundle: Ref, examples: ExampleTable) -> None:
    found = losses(Path(bundle.uri), examples=examples, num_examples=500)
    assert [loss.shards for loss in found] == [(), (0,), (1,), (0, 1)]
    assert found[0].tables == ()
    tables = {table.name for table in BundleManifest.read(Path(bundle.uri)).feature_schema.tables}
    assert set(found[-1].tables) == set(found[1].tables) | set(found[2].tables) == tables
    entropies = [loss.qualities["click"].normalized_entropy for loss in found]
    assert len(set(entropies)) == 4
    assert found[-1].qualities["click"].auc == pytest.approx(0.5, abs=0.1), "what is left is hardly a choice"


def test_the_losses_are_printed(bundle: Ref, examples: ExampleTable) -> None:
    console = Console(width=200, record=True)
    bench_degraded(console, Path(bundle.uri), examples=examples, num_examples=100)
    text = console.export_text()
    assert "shard 1" in text
    assert "all shards" in text
    assert "the model has learned from them" in text


def test_a_bundle_of_before_has_no_figures(bundle: Ref, examples: ExampleTable, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(Path(bundle.uri), folder)
    old = BundleManifest.read(folder)
    (folder / FALLBACK_FILE).unlink()
    seal_bundle(
        folder,
        old,
    )
    with pytest.raises(BundleError, match="has no fallback rows; export it again"):
        losses(folder, examples=examples, num_examples=100)
