"""`python components/document.py [--check]`: makes each component's README.md, and the reference in docs/components.md.

They come from docstrings, signatures, metadata.yaml and OWNERS. With --check nothing is written, and the exit code is 1
if a file is not current.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from exfm_components.catalogue import COMPONENTS

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs/components.md"
REFERENCE = "## Reference"
"""The heading in docs/components.md below which everything is made here."""

Row = tuple[str, ...]


@dataclass(frozen=True)
class Described:
    """What a component's docstring and signature say, as rows of tables."""

    name: str
    folder: Path
    text: str
    inputs: tuple[Row, ...]
    outputs: tuple[Row, ...]
    artifacts: tuple[Row, ...]


def describe(component: Any) -> Described:
    """Return what people read of a component."""
    function, spec = component.python_func, component.component_spec
    parameters = inspect.signature(function).parameters
    returns = inspect.signature(function).return_annotation
    inputs = [
        (
            f"`{name}`",
            f"`{inspect.formatannotation(parameters[name].annotation)}`",
            f"`{one.default!r}`" if one.optional else "",
            _line(one.description),
        )
        for name, one in (spec.inputs or {}).items()
    ]
    outputs, artifacts = [], []
    for name, one in (spec.outputs or {}).items():
        if name in parameters:
            kind = one.type.removeprefix("system.").partition("@")[0]
            artifacts.append((f"`{name}`", f"`{kind}`", _line(one.description)))
        else:
            outputs.append((f"`{name}`", f"`{inspect.formatannotation(returns)}`", _line(one.description)))
    return Described(
        name=function.__name__,
        folder=Path(inspect.getfile(function)).parent,
        text=_line(spec.description),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        artifacts=tuple(artifacts),
    )


def tables(one: Described, *, heading: str) -> Iterator[str]:
    """Yield the lines of a component's tables, without those that are empty; the headings begin with `heading`."""
    yield from _table(f"{heading} Inputs", ("name", "type", "default", "meaning"), one.inputs)
    yield from _table(f"{heading} Outputs", ("name", "type", "meaning"), one.outputs)
    yield from _table(f"{heading} Artifacts", ("name", "type", "meaning"), one.artifacts)


def readme(one: Described) -> str:
    """Return a component's README.md."""
    metadata = yaml.safe_load((one.folder / "metadata.yaml").read_text(encoding="utf-8"))
    owners = yaml.safe_load((one.folder / "OWNERS").read_text(encoding="utf-8"))
    needed = [item for group in metadata["dependencies"].values() for item in group]
    lines = [
        f"# {one.name}",
        "",
        one.text,
        "",
        "```python",
        f"from exfm_components.stages.{one.folder.parent.name} import {one.name}",
        "```",
        "",
        *tables(one, heading="##"),
        "## Metadata",
        "",
        f"- Stability: {metadata['stability']}",
        f"- Needs: {', '.join('{name} {version}'.format_map(item) for item in needed)}",
        f"- Tags: {', '.join(metadata['tags'])}",
        f"- Last verified: {metadata['lastVerified']:%Y-%m-%d}",
        f"- Owners: {', '.join(owners['approvers'])}",
    ]
    return "\n".join(lines) + "\n"


def page(described: Sequence[Described]) -> str:
    """Return docs/components.md: its own text up to the reference, and the reference."""
    text = PAGE.read_text(encoding="utf-8").splitlines()
    lines = [*takewhile(lambda line: line != REFERENCE, text), REFERENCE, ""]
    for one in described:
        link = (one.folder / "README.md").relative_to(REPOSITORY)
        lines += [f"### {one.name}", "", f"{one.text} [README](../{link})", "", *tables(one, heading="####")]
    return "\n".join(lines).rstrip("\n") + "\n"


def files() -> Mapping[Path, str]:
    """Return the text of each file that is made here."""
    described = [describe(component) for component in COMPONENTS]
    return {one.folder / "README.md": readme(one) for one in described} | {PAGE: page(described)}


def main() -> int:
    """Write the files, or check them; return the exit code."""
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text("utf-8") != text}
    if "--check" not in sys.argv[1:]:
        for path, text in stale.items():
            path.write_text(text, encoding="utf-8")
        return 0
    for path in stale:
        print(f"{path.relative_to(REPOSITORY)} is not current: run make components, and commit what it makes")
    return 1 if stale else 0


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(heading: str, columns: Row, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    written = (columns, tuple("---" for _ in columns), *rows)
    return [heading, "", *(f"| {' | '.join(row)} |" for row in written), ""]


if __name__ == "__main__":
    sys.exit(main())
