import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, draft_bundle, seal_bundle, tables_file
from exfm.artifact.digests import digest_of_json
from exfm.artifact.manifest import write_json
from exfm.artifact.plan import ShardPlan
from exfm.artifact.storage import MANIFEST
from exfm.errors import BundleError, ConfigError, PlanError
from exfm.schema import Schema

Make = Callable[[Path], BundleManifest]
FILES = [DENSE_FILE, tables_file(0), tables_file(1)]


@pytest.fixture
def bundle(make_bundle: Make, tmp_path: Path) -> Path:
    """Return the folder of a bundle."""
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def seal(folder: Path, schema: Schema, plan: ShardPlan, **changes: Any) -> BundleManifest:
    content: dict[str, Any] = {"name": "a", "network": {}, "lineage": {}} | changes
    return seal_bundle(folder, draft_bundle(schema=schema, plan=plan, **content))


def edit(folder: Path, change: Callable[[dict[str, Any]], None], *, forge_id: bool = False) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    if forge_id:
        manifest["bundle_id"] = digest_of_json({key: value for key, value in manifest.items() if key != "bundle_id"})
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_sealed_bundle_is_read(make_bundle: Make, tmp_path: Path, schema: Schema, plan: ShardPlan) -> None:
    sealed = make_bundle(tmp_path / "bundle")
    found = BundleManifest.read(tmp_path / "bundle")
    assert found == sealed
    assert found.feature_schema == schema
    assert found.plan == plan
    assert found.tasks == ("like", "love")
    assert set(found.files) == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_is_found(name: str, place: float, bundle: Path) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is damaged: expected {len(content)} B"):
        BundleManifest.read(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        BundleManifest.read(bundle)


def test_a_missing_manifest_is_named(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read \(No such file or directory\)"):
        BundleManifest.read(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"\x00"])
def test_a_manifest_that_is_not_json_is_refused(content: bytes, bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: not JSON"):
        BundleManifest.read(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(name="teachers"),
        lambda m: m.update(tasks=["love", "like"]),
        lambda m: m["network"].update(num_cross_layers=1),
        lambda m: m["lineage"].update(window="1"),
        lambda m: m["feature_schema"]["dense"][0]["normalisation"].update(mean=33.5),
        lambda m: m["plan"].update(strategy="other"),
        lambda m: m["files"][DENSE_FILE].update(sha256="0" * 64),
        lambda m: m["files"].pop(DENSE_FILE),
        lambda m: m.update(bundle_id="0" * 64),
    ],
)
def test_a_changed_field_of_the_manifest_is_found(change: Callable[[dict[str, Any]], None], bundle: Path) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=r"manifest\.json: bundle_id is [0-9a-f]{64}, but the content's is"):
        BundleManifest.read(bundle)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_format_version_is_named_before_all_else(version: object, bundle: Path) -> None:
    edit(bundle, lambda m: m.update(format_version=version, something_new=1))
    with pytest.raises(BundleError, match=f"format_version is {version!r}, this version of exfm reads 1; export again"):
        BundleManifest.read(bundle)


def test_a_bundle_is_sealed_under_a_known_id_and_one_of_when_tables_had_a_policy_is_read(tmp_path: Path) -> None:
    schema = {
        "impression_key": "k", "event_time": {"column": "t"}, "domain": "d",
        "sparse": [{"name": "f", "net": "item", "table": "t"}], "tables": [{"name": "t", "rows": 10, "dim": 4}],
        "labels": [{"name": "l", "feedback": "f", "attribution_window": 1}],
    }  # fmt: skip
    slice_ = {
        "table": "t", "shard": 0, "kind": "rows", "encoding": "fp32", "first_row": 0, "num_rows": 10,
        "first_key": "0x" + 16 * "0", "last_key": "0x" + 16 * "f", "offset_bytes": 0, "size_bytes": 160,
    }  # fmt: skip
    plan = {"strategy": "by-hand", "num_shards": 1, "replicas": [1], "rankers": 0, "slices": [slice_]}
    sealed = seal(tmp_path, Schema.parse(schema, source="x"), ShardPlan.parse(plan, source="x"))
    assert sealed.bundle_id == "a0e1a3c024b6e5d547e8edd321ff12c454d1f24e2104729dae588278298fa1a0"
    assert BundleManifest.read(tmp_path) == sealed
    before = sealed.to_dict() | {"bundle_id": "ccb40ad5ab4b231c3a91ca30fde8f439d22fc0bf3b0d59bee9403db5f31a9f35"}
    before["feature_schema"]["tables"][0]["policy"] = "hash"
    del before["feature_schema"]["user"], before["feature_schema"]["shown"]
    before["feature_schema"]["event_time"] = {"column": "t", "kind": "absolute"}
    write_json(tmp_path / MANIFEST, before)
    assert BundleManifest.read(tmp_path).feature_schema == sealed.feature_schema


def test_an_unknown_key_is_named(bundle: Path) -> None:
    edit(bundle, lambda m: m.update(owner="me"))
    with pytest.raises(BundleError, match=r"manifest\.json: owner: no such setting"):
        BundleManifest.read(bundle)


def test_a_bundle_of_before_hot_rows_is_read(bundle: Path) -> None:
    def forget_kinds(manifest: dict[str, Any]) -> None:
        for slice_ in manifest["plan"]["slices"]:
            del slice_["kind"]

    expected = BundleManifest.read(bundle)
    edit(bundle, forget_kinds, forge_id=True)
    found = BundleManifest.read(bundle)
    assert found.bundle_id != expected.bundle_id
    assert found.plan == expected.plan


def test_a_plan_that_does_not_fit_the_schema_is_refused_even_with_a_right_id(bundle: Path) -> None:
    edit(bundle, lambda m: m["plan"]["slices"].pop(), forge_id=True)
    with pytest.raises(BundleError, match="table 'genre' has 128 rows, but the plan places 0"):
        BundleManifest.read(bundle)


def test_without_verify_files_are_not_read(bundle: Path) -> None:
    (bundle / DENSE_FILE).write_bytes(b"")
    BundleManifest.read(bundle, verify=False)


def test_the_id_does_not_depend_on_the_folder(make_bundle: Make, tmp_path: Path) -> None:
    one, other = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "deep" / "other")
    assert one.bundle_id == other.bundle_id
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert BundleManifest.read(tmp_path / "moved") == other


def test_a_bundle_sealed_again_is_the_same(bundle: Path, schema: Schema, plan: ShardPlan) -> None:
    first = BundleManifest.read(bundle)
    again = seal(bundle, schema, plan, name=first.name, network=first.network)
    assert again == first
    assert BundleManifest.read(bundle) == first


@pytest.mark.parametrize("change", [{"name": "b"}, {"network": {"a": 1}}, {"lineage": {"a": "b"}}])
def test_another_content_of_the_manifest_has_another_id(
    change: dict[str, Any], bundle: Path, schema: Schema, plan: ShardPlan
) -> None:
    before = seal(bundle, schema, plan)
    assert seal(bundle, schema, plan, **change).bundle_id != before.bundle_id


def test_another_schema_has_another_id(bundle: Path, schema: Schema, plan: ShardPlan) -> None:
    labels = [schema.labels[0].to_dict()]
    fewer = Schema.parse(schema.to_dict() | {"labels": labels}, source="x")
    assert seal(bundle, fewer, plan).bundle_id != seal(bundle, schema, plan).bundle_id


def test_another_file_has_another_id(bundle: Path, schema: Schema, plan: ShardPlan) -> None:
    before = seal(bundle, schema, plan)
    (bundle / "golden").mkdir()
    (bundle / "golden" / "request.json").write_text("{}")
    with_request = seal(bundle, schema, plan)
    (bundle / "golden" / "request.json").rename(bundle / "golden" / "response.json")
    renamed = seal(bundle, schema, plan)
    assert len({before.bundle_id, with_request.bundle_id, renamed.bundle_id}) == 3


def test_lineage_may_be_any_text(bundle: Path, schema: Schema, plan: ShardPlan) -> None:
    lineage = {"note": "ä \u2028 \x85 \x7f 😀 \t ' \" : #", "number": "1e-05", "yes": "yes"}
    sealed = seal(bundle, schema, plan, lineage=lineage)
    assert BundleManifest.read(bundle) == sealed
    assert sealed.lineage == lineage


def test_a_bundle_with_an_incomplete_plan_is_not_sealed(bundle: Path, schema: Schema, plan: ShardPlan) -> None:
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(PlanError, match="table 'genre'"):
        seal(bundle, schema, plan.model_copy(update={"slices": plan.slices[:-1]}))
    assert (bundle / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", ["", "1st", "Students", "a_b", "-a", "a-", "a" * 31, "a.b", "a\n"])
def test_a_name_that_is_no_short_dns_label_is_refused(name: str, bundle: Path) -> None:
    edit(bundle, lambda m: m.update(name=name))
    with pytest.raises(BundleError, match=r"name: expected a lower-case letter, then such, digits and dashes, no dash"):
        BundleManifest.read(bundle)


@pytest.mark.parametrize("name", ["a", "a1", "a-b", "a" * 30])
def test_a_short_dns_label_is_a_name(name: str, bundle: Path, schema: Schema, plan: ShardPlan) -> None:
    assert seal(bundle, schema, plan, name=name).name == name


def test_a_bundle_error_keeps_its_cause(bundle: Path) -> None:
    edit(bundle, lambda m: m.update(owner="me"))
    with pytest.raises(BundleError) as raised:
        BundleManifest.read(bundle)
    assert isinstance(raised.value.__cause__, ConfigError)
