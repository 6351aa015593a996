import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from exfm.cli.explain import settings_files
from exfm.config import Config
from exfm.deploy.config import DeployConfig
from exfm.errors import ConfigError
from exfm.planning.config import Prices
from exfm.settings import Setting, explained, reference, removed, tree

REPOSITORY = Path(__file__).parents[1]


class Wood(Config):
    """Burns."""

    kind: Literal["wood"] = "wood"
    """Chooses wood."""
    logs: Annotated[int, Field(ge=1, le=1_000)] = 3
    """Logs at once; 1 to 1,000."""


class Gas(Config):
    """Burns cleanly."""

    kind: Literal["gas"] = "gas"
    """Chooses gas."""
    pressure: Annotated[float, Field(gt=0)]
    """Pressure, in bar; more than 0."""


class Plate(Config):
    """A plate of the oven."""

    heat: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of full heat;
    0 to 1. 0: off."""


class HotPlate(Plate):
    """A plate that starts hot."""

    heat: Annotated[float, Field(ge=0, le=1)] = 0.9


class Oven(Config):
    """An oven."""

    removed = {"coal": "set fuel.logs"}

    fuel: Annotated[Wood | Gas, Field(discriminator="kind")]
    """What it burns."""
    plates: tuple[Plate, ...] = ()
    """Its plates, from the left."""
    first: Plate = HotPlate(heat=0.7)
    second: HotPlate = HotPlate()
    names: dict[str, str] = {}
    """Names of plates."""


FILES: dict[str, type[Config]] = {"oven": Oven}


def every_setting() -> Iterator[Setting]:
    for name, model in settings_files().items():
        yield from tree(name, model).every()


def models() -> set[type[Config]]:
    return {kind for one in every_setting() for kind in one.kinds}


def test_a_setting_is_explained_by_its_type_range_default_and_docstring() -> None:
    assert explained("oven.plates.heat", FILES).splitlines() == [
        "oven.plates.heat", "  number, 0 to 1; default 0.5", "  Share of full heat; 0 to 1. 0: off.",
    ]  # fmt: skip


def test_a_group_is_explained_by_its_keys() -> None:
    text = explained("oven", FILES)
    assert text.startswith("oven\n  group\n  An oven.\n")
    assert "\n  fuel\n    group, by its `kind`; required\n    What it burns." in text
    assert "\n  second\n    group\n    A plate that starts hot." in text
    assert "\n  plates\n    list, each: group\n    Its plates, from the left.\n" in text
    assert "\n  names\n    map from names to text; default {}\n    Names of plates." in text


def test_a_default_is_what_the_group_has_by_default_and_words_are_inherited() -> None:
    assert "default 0.7" in explained("oven.first.heat", FILES)
    assert "default 0.9\n  Share of full heat" in explained("oven.second.heat", FILES)


def test_keys_of_one_kind_alone_say_so() -> None:
    assert explained("oven.fuel.pressure", FILES).splitlines()[:2] == [
        "oven.fuel.pressure (kind: gas)", "  number, more than 0; required",
    ]  # fmt: skip
    assert explained("oven.fuel.kind", FILES).count("oven.fuel.kind") == 2


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("oven.fuel.presure", "oven.fuel.pressure"),
        ("heat", "oven.plates.heat"),
        ("stove.first.heat", "oven.first.heat"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_ones(path: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"{path}: there is no such setting; the nearest are .*{nearest}"):
        explained(path, FILES)


def test_a_setting_that_is_gone_is_explained_by_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"oven\.coal is no longer a setting: set fuel\.logs"):
        explained("oven.coal", FILES)


def test_a_reference_has_a_table_for_every_group() -> None:
    text = reference(FILES)
    assert "\n### `oven.fuel` with `kind: gas`\n\nBurns cleanly.\n" in text
    assert "\n| `pressure` | number, more than 0 | required | Pressure, in bar; more than 0. |\n" in text
    assert "\n| `heat` | number, 0 to 1 | `0.7` | Share of full heat; 0 to 1. 0: off. |\n" in text


def test_the_same_group_of_two_kinds_has_two_headings() -> None:
    headings = [line for line in reference(settings_files()).splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))
    assert "### `run.source.feedback` for `kind: movielens`" in headings
    assert "### `run.source.feedback` for `kind: synthetic`" in headings


def test_a_small_bound_is_a_power_of_two() -> None:
    assert "number, 2**-24 to 4,096; default 4.0" in explained("run.bundle.sharding.shard_memory_gib", settings_files())


def test_numbers_in_docstrings_have_thousands_separators() -> None:
    assert [one.path for one in every_setting() if re.search(r"\b(to|than|least|most) \d{4}", one.text)] == []


def test_a_file_within_a_file_is_named_once() -> None:
    text = reference({"oven": Oven, "plate": Plate})
    assert "Its keys: [`plate`](#plate). |" in text
    assert "### `oven.plates`" not in text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("run.foundation_models.training.batch_size", "integer, 1 to 1,048,576; default 512"),
        ("run.foundation_models.model.dim_factor", "default 12"),
        ("run.platform.steps.memory_mib", "integer, 64 to 16,777,216; default 1024"),
        ("run.feature_schema.tables.dim", "integer, a multiple of 4, 4 to 4,096; required"),
        ("serve.ranker.shards.when_shard_fails", '`fail` or `degrade`; default "fail"'),
        ("shard.limits.max_concurrency", "integer, 1 to 10,000; default 256"),
        ("deploy.shard.cpu_request_m", "integer, 1 to 256,000; default 500"),
    ],
)
def test_settings_of_every_file_are_explained(path: str, expected: str) -> None:
    assert expected in explained(path, settings_files())


def test_the_reference_and_the_charts_list_are_current() -> None:
    files = settings_files()
    assert (REPOSITORY / "docs/settings.md").read_text() == reference(files), "run make settings"
    servers = {name: files[name] for name in ("ranker", "shard")}
    chart = yaml.safe_load((REPOSITORY / "charts/exfm/files/removed-settings.yaml").read_text())
    assert chart == removed(servers), "run make settings"


def test_every_setting_says_what_it_means_in_three_lines_without_measurements() -> None:
    for one in every_setting():
        assert one.text, one.path
    for model in models():
        for name, field in model.model_fields.items():
            text = cleandoc(field.description or "")
            assert text.count("\n") < 3, f"{model.__name__}.{name}"
            assert not re.search(r"\b20\d\d-\d\d\b", text), f"{model.__name__}.{name}: that belongs in measurements.md"


def test_planners_price_a_pods_overhead_between_that_of_shards_and_rankers() -> None:
    deployment, overhead_gib = DeployConfig(), Prices().overhead_gib
    assert deployment.shard.overhead_mib / 1024 <= overhead_gib <= deployment.ranker.overhead_mib / 1024


def test_measurements_are_named_by_settings() -> None:
    paths = {one.path for one in every_setting()}
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "docs/measurements.md").read_text(), re.MULTILINE)
    named = [
        name for heading in headings for name in re.findall(r"`((?:run|ranker|shard|deploy)\.[a-z_.0-9]+)`", heading)
    ]
    assert len(named) >= 20
    assert set(named) <= paths


def test_a_place_that_a_setting_went_to_is_a_setting() -> None:
    for model in models():
        for key, remedy in model.removed.items():
            if place := re.search(r"\bset ([a-z_]+(?:\.[a-z_]+)+)", remedy):
                assert leaf(model, place[1]), f"{model.__name__}.{key}"


def leaf(model: Any, place: str) -> bool:
    group, _, name = place.partition(".")
    found = model.model_fields.get(group)
    return found is not None and (not name or leaf(found.annotation, name))


@pytest.mark.parametrize(("kind", "most"), [("ranker", 28), ("shard", 19)])
def test_a_server_has_few_settings_in_groups(kind: str, most: int) -> None:
    settings = [one for one in tree(kind, settings_files()[kind]).every() if not one.keys]
    assert len(settings) <= most
