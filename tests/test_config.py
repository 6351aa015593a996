import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

import exfm
from exfm.config import Config, like, read_yaml
from exfm.errors import ConfigError


def with_removed_keys() -> Iterator[type[Config]]:
    """Yield the classes of exfm that earlier releases had keys of."""
    folder = Path(exfm.__path__[0])
    for file in folder.rglob("*.py"):
        if re.search(r"^    removed\b.* = ", file.read_text(), re.MULTILINE):
            module = importlib.import_module(".".join(["exfm", *file.relative_to(folder).with_suffix("").parts]))
            for found in vars(module).values():
                if isinstance(found, type) and issubclass(found, Config) and found.__module__ == module.__name__:
                    yield found


def removed_of(config: type[Config]) -> dict[str, str]:
    """Return all keys that a class or a base of it lost, with what to do instead."""
    return {key: remedy for base in reversed(config.__mro__) for key, remedy in vars(base).get("removed", {}).items()}


class Oven(Config):
    """What these tests bake with."""

    name: str
    num_trays: Annotated[int, Field(ge=1)] = 2
    heat: float = 180.0


class Kitchen(Config):
    """A value within a value."""

    oven: Oven
    num_cooks: int


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        Kitchen.parse({"oven": {"num_trays": 0, "colour": "red"}, "num_cooks": "many"}, source="kitchen.yaml")
    message = str(raised.value)
    assert message.startswith("kitchen.yaml: ")
    assert "oven.name: missing; set it" in message
    assert "oven.num_trays: expected at least 1 (found 0)" in message
    assert "oven.colour: no such setting (found 'red')" in message
    assert "num_cooks: expected a whole number" in message
    assert "(found 'many')" in message


def test_a_setting_that_is_gone_is_refused_by_name_with_what_to_do() -> None:
    class Stove(Config):
        removed = {"wood": "it burns gas; leave wood out"}
        heat: float = 180.0

    with pytest.raises(ConfigError, match=r"wood is no longer a setting: it burns gas; leave wood out"):
        Stove.parse({"wood": 3, "heat": 200.0}, source="kitchen.yaml")
    assert Stove.parse({"heat": 200.0}, source="kitchen.yaml").heat == 200.0


@pytest.mark.parametrize(
    ("config", "key", "remedy"),
    [
        pytest.param(config, key, remedy, id=f"{config.__name__}.{key}")
        for config in with_removed_keys()
        for key, remedy in removed_of(config).items()
    ],
)
def test_every_setting_that_is_gone_is_refused_by_name_with_what_to_do(
    config: type[Config], key: str, remedy: str
) -> None:
    assert re.search(r"leave it out|set [a-z]", remedy)
    with pytest.raises(ConfigError, match=re.escape(f"{key} is no longer a setting: {remedy}")):
        config.parse({key: 1}, source="a test")


class Menu(Config):
    dishes: Annotated[tuple[Oven, ...], Field(min_length=1)]
    number: Annotated[str, like("[A-Z][0-9]+", "a capital letter, then digits")] = "A1"


@pytest.mark.parametrize(
    ("menu", "message"),
    [
        ({"dishes": []}, "menu: dishes: expected at least 1 of them (found [])"),
        ({"dishes": [{"name": 3}]}, "menu: dishes.0.name: expected text (found 3)"),
        ({"dishes": ["soup"]}, "menu: dishes.0: expected settings, each as `key: value` (found 'soup')"),
        ({"dishes": "soup"}, "menu: dishes: expected a list, such as [a, b] (found 'soup')"),
        (
            {"dishes": [{"name": "soup"}], "number": "A1b"},
            "menu: number: expected a capital letter, then digits (found 'A1b')",
        ),
    ],
)
def test_a_mistake_is_told_once_and_in_words(menu: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Menu.parse(menu, source="menu")
    assert str(raised.value) == message


class Recipe(Config):
    is_sweet: bool = False
    grams: Annotated[float, Field(ge=2**-24, lt=1e9)] = 1.0
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.5
    size: Annotated[int, Field(multiple_of=4)] = 4
    served: Literal["hot", "cold"] = "hot"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"is_sweet": "very"}, "is_sweet: expected true or false (found 'very')"),
        ({"is_sweet": [1]}, "is_sweet: expected true or false (found [1])"),
        ({"grams": "some"}, "grams: expected a number (found 'some')"),
        ({"grams": [1]}, "grams: expected a number (found [1])"),
        ({"grams": 0}, "grams: expected at least 2**-24 (found 0)"),
        ({"grams": 2e9}, "grams: expected less than 1,000,000,000 (found 2000000000.0)"),
        ({"share": 0}, "share: expected more than 0 (found 0)"),
        ({"share": 0.6}, "share: expected at most 0.5 (found 0.6)"),
        ({"size": 6}, "size: expected a multiple of 4 (found 6)"),
        ({"size": [1]}, "size: expected a whole number (found [1])"),
        ({"size": "9" * 5_000}, "size: expected a whole number (found '999"),
        ({"served": "warm"}, "served: expected 'hot' or 'cold' (found 'warm')"),
    ],
)
def test_a_wrong_value_is_refused_by_what_was_expected(recipe: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Recipe.parse(recipe, source="recipe")
    assert str(raised.value).startswith(f"recipe: {message}")


class Gas(Config):
    """A stove of one kind."""

    removed = {"wood": "it burns gas; leave it out"}
    kind: Literal["gas"] = "gas"
    num_flames: int


class Electric(Config):
    """A stove of another kind."""

    kind: Literal["electric"] = "electric"
    hotplates: tuple[Oven, ...] = ()


class Cooker(Config):
    """One stove of several kinds."""

    stove: Annotated[Gas | Electric, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("stove", "message"),
    [
        ({"kind": "gas"}, "stove.num_flames: missing; set it"),
        ({"kind": "gas", "num_flames": "two"}, "stove.num_flames: expected a whole number (found 'two')"),
        ({"kind": "gas", "wood": 1}, "stove: wood is no longer a setting: it burns gas; leave it out"),
        ({"kind": "electric", "colour": "red"}, "stove.colour: no such setting (found 'red')"),
        ({"kind": "electric", "hotplates": [{"name": 3}]}, "stove.hotplates.0.name: expected text (found 3)"),
        ({"kind": "coal"}, "stove: kind is 'coal', expected 'gas', 'electric'"),
    ],
)
def test_a_mistakes_place_is_where_the_file_has_it_though_kind_chooses_the_model(
    stove: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        Cooker.parse({"stove": stove}, source="kitchen")
    assert str(raised.value).startswith(f"kitchen: {message}")


@pytest.mark.parametrize("value", [3, 3.0])
def test_an_integral_float_is_an_integer(value: float) -> None:
    oven = Oven.parse({"name": "a", "num_trays": value}, source="a pipeline's struct")
    assert oven.num_trays == 3
    assert type(oven.num_trays) is int


def test_a_fraction_is_no_integer() -> None:
    with pytest.raises(ConfigError, match=r"num_trays: expected a whole number \(found 3\.5\)"):
        Oven.parse({"name": "a", "num_trays": 3.5}, source="x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"heat: expected a finite number \(found"):
        Oven.parse({"name": "a", "heat": value}, source="x")


def test_something_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"x: \(top level\): expected settings, each as `key: value` \(found \[1, 2\]\)"
    ):
        Oven.parse([1, 2], source="x")


def test_a_long_wrong_value_does_not_flood_the_message() -> None:
    with pytest.raises(ConfigError) as raised:
        Oven.parse({"name": "a", "num_trays": "x" * 10_000}, source="x")
    assert len(str(raised.value)) < 300


def test_a_value_cannot_be_changed() -> None:
    oven = Oven(name="a")
    with pytest.raises(ValueError, match="frozen"):
        oven.num_trays = 3  # type: ignore[misc]


def test_parsing_what_to_dict_returns_gives_the_same_value() -> None:
    kitchen = Kitchen(oven=Oven(name="a", heat=1e-05), num_cooks=3)
    assert Kitchen.parse(kitchen.to_dict(), source="x") == kitchen


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/a\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(Path("/nowhere/a.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "line 1, column 9: expected ',' or ']', but got '<stream end>'; correct it there or just before"),
        (b"a: b: c", "line 1, column 5: mapping values are not allowed here; correct it there or just before"),
        (b"- a\nb: c", "line 2, column 1: expected <block end>, but found '?'; correct it there or just before"),
        (b"\xff\xfe\xff", "byte 0 is no UTF-8; save it as UTF-8 text"),
        (b"a: 2020-13-45", "month must be in 1..12; correct it, or put the value in quotes"),
        (b"a: \x00", "unacceptable character #x0000: special characters are not allowed; correct it, or put the value"),
    ],
)
def test_a_file_that_is_not_yaml_is_named_in_one_line_with_the_place(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_yaml(path)
    assert str(raised.value).startswith(f"{path}: not YAML: {message}")
    assert "\n" not in str(raised.value)


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not YAML"):
        read_yaml(path)
