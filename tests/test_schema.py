import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from exfm.errors import ConfigError, SchemaError
from exfm.schema import Schema, WrittenSchema, pseudo_label_column


def refused(schema: Schema, **changes: Any) -> str:
    """Return the message of a schema with changes that make it wrong."""
    with pytest.raises(SchemaError) as raised:
        Schema.parse(schema.to_dict() | changes, source="schema.yaml")
    return str(raised.value)


def sparse(schema: Schema, index: int, **changes: Any) -> list[dict[str, Any]]:
    features = [feature.to_dict() for feature in schema.sparse]
    return [*features[:index], features[index] | changes, *features[index + 1 :]]


def tables(schema: Schema, index: int, **changes: Any) -> list[dict[str, Any]]:
    rows = [table.to_dict() for table in schema.tables]
    return [*rows[:index], rows[index] | changes, *rows[index + 1 :]]


def test_an_unknown_key_is_named_with_its_place(schema: Schema) -> None:
    message = refused(schema, tables=tables(schema, 1, dims=8))
    assert message == "schema.yaml: tables.1.dims: no such setting (found 8)"


def test_features_with_one_name_are_refused(schema: Schema) -> None:
    assert "feature 'user_id' is named more than once" in refused(schema, sparse=sparse(schema, 1, name="user_id"))


def test_a_dense_and_a_sparse_feature_with_one_name_are_refused(schema: Schema) -> None:
    assert "feature 'age' is named more than once" in refused(schema, sparse=sparse(schema, 1, name="age"))


def test_tables_with_one_name_are_refused(schema: Schema) -> None:
    assert "table 'user' is named more than once" in refused(schema, tables=tables(schema, 1, name="user"))


def test_labels_with_one_name_are_refused(schema: Schema) -> None:
    labels = [schema.labels[0].to_dict()] * 2
    assert "label 'like' is named more than once" in refused(schema, labels=labels)


@pytest.mark.parametrize("positive_from", [1.5, 4.0])
def test_a_label_that_no_feedback_makes_positive_is_refused(positive_from: float, schema: Schema) -> None:
    labels = [schema.labels[0].to_dict() | {"reduction": "any", "positive_from": positive_from}]
    message = refused(schema, labels=labels)
    assert (
        f"labels.0: label 'like': reduction 'any' is 1 at most, never {positive_from:g}; leave positive_from" in message
    )


def test_a_label_of_any_feedback_may_leave_its_threshold_below_one(schema: Schema) -> None:
    labels = [schema.labels[0].to_dict() | {"reduction": "any", "positive_from": 0.5}]
    assert Schema.parse(schema.to_dict() | {"labels": labels}, source="test").labels[0].positive_from == 0.5


def test_a_feature_of_a_missing_table_is_refused(schema: Schema) -> None:
    message = refused(schema, sparse=sparse(schema, 0, table="nowhere"))
    assert "feature 'user_id' uses table 'nowhere'; tables are ['genre', 'item'," in message


def test_a_table_that_no_feature_uses_is_refused(schema: Schema) -> None:
    message = refused(schema, sparse=sparse(schema, 0, table="item"))
    assert "no feature uses table user" in message


@pytest.mark.parametrize("dim", [6, 0, 2, -4, 4100])
def test_a_dim_that_fbgemm_cannot_hold_is_refused(dim: int, schema: Schema) -> None:
    message = refused(schema, tables=tables(schema, 0, dim=dim))
    assert "tables.0.dim: expected " in message
    assert f"(found {dim})" in message


@pytest.mark.parametrize("rows", [0, 2**32 + 1])
def test_rows_that_keys_cannot_be_spread_over_are_refused(rows: int, schema: Schema) -> None:
    assert f"(found {rows})" in refused(schema, tables=tables(schema, 0, rows=rows))


@pytest.mark.parametrize("name", ["", "1st", "a.b", "a b", "ä", "a" * 64, "a.lengths", "a\n"])
def test_a_name_that_is_no_identifier_is_refused(name: str, schema: Schema) -> None:
    assert "sparse.0.name: expected a letter, then letters, digits and underscores; at most 63 in all" in refused(
        schema, sparse=sparse(schema, 0, name=name)
    )


def test_the_name_of_a_requests_own_input_is_refused(schema: Schema) -> None:
    message = refused(schema, sparse=sparse(schema, 0, name="num_candidates"))
    assert "feature 'num_candidates' has the name of a request's own input" in message


def test_the_domain_may_be_a_feature_too(schema: Schema) -> None:
    changed = Schema.parse(schema.to_dict() | {"domain": "gender"}, source="test")
    assert "gender" in changed.feature_names()


def test_the_user_may_be_a_feature_too_and_stays_where_a_model_does_not_read_it(schema: Schema) -> None:
    assert schema.user in schema.feature_names()
    part = schema.select(features=["item_id"])
    assert part.user in part.context_columns() - set(part.feature_names())


@pytest.mark.parametrize("key", ["impression_key", "weight", "negative_sampling_rate"])
def test_a_feature_that_is_also_a_context_column_is_refused(key: str, schema: Schema) -> None:
    assert "['gender'] are feature names and also key" in refused(schema, **{key: "gender"})


@pytest.mark.parametrize("key", ["sparse", "labels"])
def test_a_schema_without_features_or_labels_is_refused(key: str, schema: Schema) -> None:
    changes = {key: []} | ({"tables": []} if key == "sparse" else {})
    assert f"{key} is empty; name at least one" in refused(schema, **changes)


@pytest.mark.parametrize("std", [0.0, -1.0, float("inf"), float("nan")])
def test_a_normalisation_that_divides_by_nothing_is_refused(std: float, schema: Schema) -> None:
    dense = [schema.dense[0].to_dict() | {"normalisation": {"std": std}}]
    assert "dense.0.normalisation.std: expected" in refused(schema, dense=dense)


def test_the_schema_in_a_file_is_read(tmp_path: Path, schema: Schema) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema.to_dict()))  # JSON is YAML
    assert Schema.read(path) == schema


def test_a_file_with_a_wrong_schema_is_named(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("impression_key: a\ndomain: b\nfeatures: []\n")
    with pytest.raises(SchemaError) as raised:
        Schema.read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "event_time: missing; set it" in str(raised.value)
    assert "features: no such setting" in str(raised.value)


def test_an_empty_file_is_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("")
    with pytest.raises(SchemaError, match=r"schema\.yaml: \(top level\): .*\(found None\)"):
        Schema.read(path)


def test_a_missing_schema_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        Schema.read(tmp_path / "gone.yaml")


def test_selecting_nothing_selects_all(schema: Schema) -> None:
    assert schema.select() == schema


def test_a_selection_keeps_only_the_features_and_the_tables_that_they_use(schema: Schema) -> None:
    part = schema.select(features=["genres", "age", "liked_items"])
    assert part.feature_names() == ("age", "liked_items", "genres")
    assert [table.name for table in part.tables] == ["item", "genre"]
    assert part.labels == schema.labels


def test_a_selection_keeps_the_order_of_its_tasks(schema: Schema) -> None:
    part = schema.select(tasks=["love", "like"])
    assert [label.name for label in part.labels] == ["love", "like"]


def test_a_selection_keeps_the_context(schema: Schema) -> None:
    part = schema.select(features=["user_id"], tasks=["love"])
    assert part.context_columns() == schema.context_columns()


def test_selecting_an_unknown_feature_is_refused(schema: Schema) -> None:
    with pytest.raises(SchemaError, match="unknown feature 'colour'; the schema has age, release_year, user_id"):
        schema.select(features=["age", "colour"])


def test_selecting_an_unknown_task_is_refused(schema: Schema) -> None:
    with pytest.raises(SchemaError, match="unknown task 'click'; the schema has like, love"):
        schema.select(tasks=["click"])


def test_selecting_a_task_twice_is_refused(schema: Schema) -> None:
    with pytest.raises(SchemaError, match="label 'like' is named more than once"):
        schema.select(tasks=["like", "like"])


def test_selecting_no_sparse_feature_is_refused(schema: Schema) -> None:
    with pytest.raises(SchemaError, match="sparse is empty"):
        schema.select(features=["age"])


def with_policies(schema: Schema) -> dict[str, Any]:
    """Return a schema as an earlier release wrote it."""
    return schema.to_dict() | {"tables": [table.to_dict() | {"policy": "hash"} for table in schema.tables]}


def test_a_tables_policy_is_refused_by_name_in_a_users_schema(schema: Schema) -> None:
    with pytest.raises(SchemaError, match=r"tables\.0: policy is no longer a setting: .* leave it out"):
        Schema.parse(with_policies(schema), source="schema.yaml")


def test_a_tables_policy_counts_for_nothing_in_a_json_file_that_a_ranker_wrote(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(with_policies(schema)))
    assert Schema.read(tmp_path / "schema.json") == schema


def test_a_tables_policy_counts_for_nothing_in_what_an_earlier_release_wrote(schema: Schema) -> None:
    assert TypeAdapter(WrittenSchema).validate_python(with_policies(schema)) == schema
    assert TypeAdapter(WrittenSchema).validate_python(schema.to_dict()) == schema
    for malformed in (with_policies(schema) | {"tables": "none"}, with_policies(schema) | {"tables": ["item"]}, []):
        with pytest.raises(ValidationError):
            TypeAdapter(WrittenSchema).validate_python(malformed)


def test_a_wider_schema_differs_in_dims_only(schema: Schema) -> None:
    wide = schema.widen(3)
    assert [table.dim for table in wide.tables] == [3 * table.dim for table in schema.tables]
    narrow = [table.model_copy(update={"dim": table.dim // 3}).to_dict() for table in wide.tables]
    assert Schema.parse(wide.to_dict() | {"tables": narrow}, source="x") == schema


def test_a_schema_wider_than_a_table_may_be_is_refused(schema: Schema) -> None:
    with pytest.raises(SchemaError, match=r"the wider schema: tables\.0\.dim: .*4096 \(found 8000\)"):
        schema.widen(1000)


def test_features_are_listed_by_net_dense_first(schema: Schema) -> None:
    assert schema.feature_names(["item"]) == ("release_year", "item_id", "genres")
    assert [feature.name for feature in schema.dense_of("user")] == ["age"]
    assert [feature.name for feature in schema.sparse_of("item")] == ["item_id", "genres"]


def test_a_labels_planted_truth_is_a_context_column(schema: Schema) -> None:
    labels = [schema.labels[0].to_dict() | {"truth": "p_like"}]
    with_truth = Schema.parse(schema.to_dict() | {"labels": labels}, source="x")
    assert with_truth.context_columns() == {"impression_id", "event_time_s", "domain", "user_id", "p_like"}


def test_a_pseudo_label_is_named_by_foundation_model_and_task() -> None:
    assert pseudo_label_column("fm", "like") == "pseudo.fm.like"
