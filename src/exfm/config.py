"""The base of every value that comes from outside, and the one way to read it from a file."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from exfm.errors import ConfigError


class Config(BaseModel):
    """A frozen value whose unknown keys, NaN and infinities are errors; each field's docstring gives its unit."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    removed: ClassVar[Mapping[str, str]] = {}
    """Keys that earlier releases had, each with a sentence that says what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_removed(cls, data: Any) -> Any:
        given = data if isinstance(data, Mapping) else {}
        found = [f"{key} is no longer a setting: {remedy}" for key, remedy in cls.removed.items() if key in given]
        if found:
            raise ValueError("; ".join(found))
        return data

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, data: Any) -> Any:
        """Let a group that is given in part have its other keys from the default of this very group."""
        if not isinstance(data, Mapping):
            return data
        return {**data} | {
            name: _merged(field.default.model_dump(exclude_unset=True), data[name])
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Config) and isinstance(data.get(name), Mapping)
        }

    @classmethod
    def without_removed(cls, written: Any) -> Any:
        """Return what exfm wrote, maybe an earlier release, without keys that are gone; no mapping is left as it is."""
        if not isinstance(written, Mapping):
            return written
        return {key: value for key, value in written.items() if key not in cls.removed}

    @classmethod
    def parse(cls, data: Any, *, source: str) -> Self:
        """Return `data` as a value of this type; `source` names where it came from.

        Raises: ConfigError, which names every wrong key with what was found and expected.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise cls.error_type()(describe(error, source=source, data=data)) from error

    @classmethod
    def error_type(cls) -> type[ConfigError]:
        """Return the error that this type's `parse` raises."""
        return ConfigError

    def to_dict(self) -> dict[str, Any]:
        """Return this value as what JSON can hold."""
        return self.model_dump(mode="json")


def _merged(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given, and from the default what is not, group by group."""
    kept = {**default, **given}
    for key, value in default.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            kept[key] = _merged(value, given[key])
    return kept


def like(pattern: str, meaning: str) -> AfterValidator:
    """Return what refuses a text that a pattern does not match as a whole, and says so by the pattern's meaning."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"expected {meaning} (found {text!r:.80})")
        return text

    return AfterValidator(check)


def describe(error: ValidationError, *, source: str, data: Any = None) -> str:
    """Return each mistake: its place in `data`, what is wrong and what was found."""
    lines, places = [], [item["loc"] for item in error.errors()]
    for item in error.errors():
        depth = len(item["loc"])
        if item["type"] == "too_short" and any(len(at) > depth and at[:depth] == item["loc"] for at in places):
            continue  # it has items, but pydantic counts only the valid ones
        place = ".".join(_place(item["loc"], data)) or "(top level)"
        found = "" if item["type"] in {"missing", "value_error"} else f" (found {item['input']!r:.80})"
        lines.append(f"{place}: {_expected(item)}{found}")
    return f"{source}: " + "; ".join(lines)


def _place(loc: tuple[int | str, ...], data: Any) -> Iterator[str]:
    """Yield the keys of a mistake's place, without the `kind` that pydantic adds where `kind` chooses the model."""
    for part in loc:
        if isinstance(data, Mapping) and part not in data and part == data.get("kind"):
            continue
        yield str(part)
        try:
            data = data[part]
        except (TypeError, LookupError):  # the key is missing
            data = None


def _expected(item: ErrorDetails) -> str:
    """Return what is expected at a mistake's place: in our words for types, else in pydantic's."""
    context = item.get("ctx", {})
    key = str(context.get("discriminator", "")).strip("'")
    match item["type"]:
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            return "expected settings, each as `key: value`"
        case "tuple_type" | "list_type":
            return "expected a list, such as [a, b]"
        case "too_short":
            return f"expected at least {context['min_length']} of them"
        case "string_too_short":
            return f"expected at least {context['min_length']} character(s)"
        case "union_tag_not_found":
            return f"{key} is missing, which says what this is"
        case "union_tag_invalid":
            return f"{key} is '{context['tag']}', expected {context['expected_tags']}"
        case "string_pattern_mismatch":  # of what exfm writes itself; what people write is checked by `like`
            return "this has not the form in which exfm writes it"
        case "missing":
            return "missing; set it"
        case "extra_forbidden":
            return "no such setting"
        case "string_type":
            return "expected text"
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float":
            return "expected a whole number"
        case "float_type" | "float_parsing":
            return "expected a number"
        case "finite_number":
            return "expected a finite number"
        case "bool_type" | "bool_parsing":
            return "expected true or false"
        case "literal_error":
            return f"expected {context['expected']}"
        case "greater_than_equal":
            return f"expected at least {number_text(context['ge'])}"
        case "greater_than":
            return f"expected more than {number_text(context['gt'])}"
        case "less_than_equal":
            return f"expected at most {number_text(context['le'])}"
        case "less_than":
            return f"expected less than {number_text(context['lt'])}"
        case "multiple_of":
            return f"expected a multiple of {number_text(context['multiple_of'])}"
        case _:
            return item["msg"].removeprefix("Value error, ")


def number_text(value: float) -> str:
    """Return a bound as people write it: with thousands separators, or as a power of two if it is small."""
    if value == int(value):
        return f"{int(value):,}"
    mantissa, exponent = math.frexp(value)
    return f"2**{exponent - 1}" if mantissa == 0.5 and value < 1e-4 else f"{value:g}"


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML (or JSON) file.

    Raises: ConfigError if the file is missing or is not YAML.
    """
    try:
        return parse_yaml(path.read_bytes(), source=str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing YAML file") from error


def parse_yaml(content: bytes, *, source: str) -> Any:
    """Return the value in YAML (or JSON) text; `source` names where it came from.

    Raises: ConfigError if it is not YAML.
    """
    try:
        return yaml.safe_load(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not YAML: byte {error.start} is no UTF-8; save it as UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{source}: not YAML: {where}{error.problem}; correct it there or just before") from error
    except (yaml.YAMLError, ValueError) as error:  # a control character, or a date such as 2020-13-45
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{source}: not YAML: {reason}; correct it, or put the value in quotes") from error
