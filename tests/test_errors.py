import inspect
import re

import pytest

from exfm import errors

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]

TREE = {
    name: (len(indent), int(code))
    for indent, name, code in re.findall(
        r"^    ([ │├└─]*)(\w+Error) +(\d)?\b", errors.__doc__ or "", flags=re.MULTILINE
    )
    if code
}


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not errors.ExfmError])
def test_the_tree_in_the_docstring_tells_an_errors_exit_code(kind: type[errors.ExfmError]) -> None:
    if kind is errors.ServingError:  # has its row too
        assert TREE["ServingError"][1] == 3
    assert TREE[kind.__name__][1] == kind.exit_code


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_for_callers_is_an_exfm_error_with_a_sentence(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.ExfmError)
    assert kind.__doc__


def test_the_tree_in_the_docstring_shows_which_error_is_a_case_of_which() -> None:
    parents: list[tuple[int, str]] = [(0, "ExfmError")]
    for name, (depth, _) in TREE.items():
        while parents[-1][0] >= depth:
            parents.pop()
        assert getattr(errors, name).__base__.__name__ == parents[-1][1]
        parents.append((depth, name))


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert set(TREE) == {kind.__name__ for kind in CLASSES} - {"ExfmError"}
