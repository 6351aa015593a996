"""Settings as a tree, from their models and docstrings: what `exfm explain` prints and docs/settings.md holds."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any, get_args

from pydantic_core import to_jsonable_python

from exfm.config import Config, number_text
from exfm.errors import ConfigError

WIDTH = 100
"""Width of printed text, in columns."""

Schema = Mapping[str, Any]
"""A JSON schema."""


@dataclass(frozen=True)
class Setting:
    """A setting or a group of settings, by its path in a YAML file."""

    path: str
    allowed: str
    """Type and range, in words."""
    default: str
    """Default in YAML; empty: a group, whose keys have defaults, or a required setting."""
    text: str
    """Docstring of the setting, in one line; for a group without one, the docstring of its model."""
    is_required: bool = False
    kinds: tuple[type[Config], ...] = ()
    """A group's models: several, if a key `kind` chooses one."""
    keys: tuple["Setting", ...] = ()
    condition: str = ""
    """The `kind` for which the setting exists; empty: all."""
    removed: Mapping[str, str] = field(default_factory=dict)
    """A group's removed keys, each with what to do instead."""

    def every(self) -> Iterator["Setting"]:
        """Yield this setting and all below it."""
        yield self
        for key in self.keys:
            yield from key.every()

    @property
    def name(self) -> str:
        """Return the last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """Return its type, and its default or that it is required."""
        rest = "required" if self.is_required else f"default {self.default}" if self.default else ""
        return "; ".join(filter(None, [self.allowed, rest]))


def tree(path: str, model: type[Config]) -> Setting:
    """Return the settings of a file's model, under a path of one part."""
    return _group(path, "group", "", (model,), None)


def explained(path: str, files: Mapping[str, type[Config]]) -> str:
    """Return the meaning of a setting, or of each key of a group, as text. `files` are models by name.

    Raises: ConfigError if there is no such setting, with the nearest ones, or if it was removed, with what to do.
    """
    found = _find(path, [tree(name, model) for name, model in files.items()])
    lines = []
    for one in found:
        lines += [f"{one.path}{_where(one)}", f"  {one.summary}", *_indented(one.text, 2)]
        for key in one.keys:
            lines += ["", f"  {key.name}{_where(key)}", f"    {key.summary}", *_indented(key.text, 4)]
        lines.append("")
    return "\n".join(lines).rstrip()


def reference(files: Mapping[str, type[Config]]) -> str:
    """Return all settings of all files as Markdown: a table for each group."""
    lines = [
        "# Settings",
        "",
        "`make settings` makes this page from the models and their docstrings: change those, not this page.",
        "`exfm explain PATH` prints one setting or group, such as `exfm explain run.das.keep_windows`.",
        "[Measurements](measurements.md) has the reasons for defaults.",
        "",
        "Each table is a group. In the file, its keys are below the group's name: `run.bundle.plan` is `plan`",
        "below `bundle` in run.yaml. If a group is in a list, each item of the list has these keys.",
    ]
    titles = {model: name for name, model in files.items()}
    for name, model in files.items():
        lines += _section(tree(name, model), titles, depth=2)
    return "\n".join(lines) + "\n"


def removed(files: Mapping[str, type[Config]]) -> dict[str, dict[str, str]]:
    """Return the keys that earlier releases had at the top of each file, with what to do instead."""
    return {name: dict(sorted(model.removed.items())) for name, model in files.items()}


def _group(path: str, allowed: str, text: str, kinds: tuple[type[Config], ...], default: Any) -> Setting:
    keys: list[Setting] = []
    for kind in kinds:
        condition = _kind_of(kind) if len(kinds) > 1 else ""
        schemas = kind.model_json_schema()
        for name in kind.model_fields:
            value = getattr(default, name) if isinstance(default, kind) else None
            keys.append(_setting(f"{path}.{name}", kind, name, schemas, value, condition))
    about = text or " ".join(_flat(kind.__doc__) for kind in kinds if len(kinds) == 1)
    gone = {key: remedy for kind in kinds for key, remedy in kind.removed.items()}
    return Setting(path=path, allowed=allowed, default="", text=about, kinds=kinds, keys=tuple(keys), removed=gone)


def _setting(path: str, model: type[Config], name: str, schemas: Schema, value: Any, condition: str) -> Setting:
    """Return a model's field; `value` is what the group's own default has, None if it has none."""
    found = model.model_fields[name]
    if value is None and not found.is_required():
        value = found.get_default(call_default_factory=True)
    text = next((_flat(base.model_fields[name].description) for base in _bases(model, name)), "")
    allowed = _type_of(schemas["properties"][name], schemas.get("$defs", {}))
    kinds = tuple(_models_in(found.annotation))
    if kinds:
        group = _group(path, allowed, text, kinds, value)
        return replace(group, condition=condition, is_required=found.is_required())
    default = "" if found.is_required() else json.dumps(to_jsonable_python(value), ensure_ascii=False)
    return Setting(path, allowed, default, text, condition=condition, is_required=found.is_required())


def _bases(model: type[Config], name: str) -> Iterator[type[Config]]:
    """Yield the model and its bases that describe a field: a model that only changes a default has no text."""
    for base in model.__mro__:
        if issubclass(base, Config) and name in base.model_fields and base.model_fields[name].description:
            yield base


def _models_in(annotation: Any) -> Iterator[type[Config]]:
    """Yield the models in a type: itself, or those of a list, a map, or a choice by `kind`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _kind_of(model: type[Config]) -> str:
    return f"kind: {model.model_fields['kind'].default}"


def _type_of(schema: Schema, models: Schema) -> str:
    """Return what a JSON schema allows, in words."""
    if "$ref" in schema:
        return _type_of(models[schema["$ref"].rpartition("/")[2]], models)
    if "oneOf" in schema or "anyOf" in schema:
        types = [_type_of(one, models) for one in schema.get("oneOf", schema.get("anyOf"))]
        return "group, by its `kind`" if set(types) == {"group"} else " or ".join(dict.fromkeys(types))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _either(schema["enum"])
    match schema["type"]:
        case "integer" | "number":
            words = [f"a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "", _range(schema)]
            return ", ".join(filter(None, [schema["type"], *words]))
        case "boolean":
            return "`true` or `false`"
        case "array":
            least = ", not empty" if schema.get("minItems") else ""
            return f"list, each: {_type_of(schema['items'], models)}{least}"
        case "object" if "additionalProperties" in schema and "properties" not in schema:
            names = schema.get("propertyNames", {}).get("enum")
            return (
                f"map from {_either(names) if names else 'names'} to {_type_of(schema['additionalProperties'], models)}"
            )
        case "object":
            return "group"
    return f"text like `{schema['pattern']}`" if "pattern" in schema else "text"


def _range(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{number_text(least)} to {number_text(most)}"
    words = {"at least": least, "more than": above, "at most": most, "less than": below}
    return ", ".join(f"{word} {number_text(bound)}" for word, bound in words.items() if bound is not None)


def _either(values: Sequence[str]) -> str:
    *others, last = (f"`{value}`" if value else '`""`' for value in values)
    return " or ".join(filter(None, [", ".join(others), last]))


def _flat(text: str | None) -> str:
    return " ".join(cleandoc(text or "").split())


def _where(setting: Setting) -> str:
    return f" ({setting.condition})" if setting.condition else ""


def _indented(text: str, by: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * by, subsequent_indent=" " * by, break_on_hyphens=False)


def _find(path: str, trees: Sequence[Setting]) -> list[Setting]:
    every = [one for root in trees for one in root.every()]
    if found := [one for one in every if one.path == path]:
        return found
    group, _, key = path.rpartition(".")
    for one in every:
        if one.path == group and key in one.removed:
            raise ConfigError(f"{path} is no longer a setting: {one.removed[key]}")
    paths = list(dict.fromkeys(one.path for one in every))
    nearest = [one for one in paths if one.rpartition(".")[2] == key] or get_close_matches(path, paths, n=3, cutoff=0.0)
    raise ConfigError(f"{path}: there is no such setting; the nearest are {', '.join(nearest[:5])}")


def _section(
    group: Setting, titles: Mapping[type[Config], str], *, depth: int, kind: str = "", parent_kind: str = ""
) -> list[str]:
    """Return a group's heading, table and sections; a group that is a file of its own is only linked."""
    name = f"`{group.path}`" + (f" with `{kind}`" if kind else "") + (f" for `{parent_kind}`" if parent_kind else "")
    text = next((_flat(one.__doc__) for one in group.kinds if _is_kind(one, kind)), "") if kind else group.text
    lines = ["", f"{'#' * depth} {name}", "", _escaped(text), "", "| key | type and range | default | meaning |"]
    lines.append("|---|---|---|---|")
    below: list[str] = []
    for key in (key for key in group.keys if key.condition == kind):
        kinds = [titles[one] for one in key.kinds if one in titles]
        if key.keys and not kinds:
            conditions = list(dict.fromkeys(one.condition for one in key.keys))
            for condition in conditions:
                below += _section(key, titles, depth=3, kind=condition, parent_kind=kind or parent_kind)
        meaning = f"{key.text} Its keys: [`{kinds[0]}`](#{kinds[0]})." if kinds else key.text
        default = f"`{key.default}`" if key.default else "required" if key.is_required else ""
        lines.append("| " + " | ".join(map(_cell, [f"`{key.name}`", key.allowed, default, meaning])) + " |")
    return [*lines, *below]


def _is_kind(model: type[Config], kind: str) -> bool:
    return "kind" in model.model_fields and _kind_of(model) == kind


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return a text for Markdown, with its asterisks escaped except in code."""
    return "".join(part if part.startswith("`") else part.replace("*", "\\*") for part in re.split(r"(`[^`]*`)", text))
