"""The base of every value that comes from outside, and the one way to read it from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

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
            raise cls.error_type()(describe(error, source=source)) from error

    @classmethod
    def error_type(cls) -> type[ConfigError]:
        """Return the error that this type's `parse` raises."""
        return ConfigError

    def to_dict(self) -> dict[str, Any]:
        """Return this value as what JSON can hold."""
        return self.model_dump(mode="json")


def describe(error: ValidationError, *, source: str) -> str:
    """Return one line a mistake: its place, what was wrong and what was found."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"].removeprefix("Value error, ")
        found = "" if item["type"] in {"missing", "value_error"} else f" (found {item['input']!r:.80})"
        lines.append(f"{place}: {message}{found}")
    return f"{source}: " + "; ".join(lines)


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
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-45
        raise ConfigError(f"{source}: not YAML: {error}") from error
