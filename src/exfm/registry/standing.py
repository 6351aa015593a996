"""How a vertical model's newest version stands to its champion, and what became of it."""

from exfm.registry.champion import CHAMPION
from exfm.registry.mlflow_registry import Registry
from exfm.registry.registration import CANDIDATE

OUTCOME_TAG = "outcome"
"""Tag of a model version that says whether it was deployed, and why not."""


def keep_outcome(registry: Registry, name: str, version: int, text: str) -> None:
    """Write down whether a version was deployed.

    Raises: StorageError if the registry does not answer.
    """
    with registry.reporting():
        registry.client.set_model_version_tag(name, str(version), OUTCOME_TAG, text)


def standing(registry: Registry, name: str) -> str:
    """Return a line about a model's champion, and about its newest version if that is another one.

    Raises: StorageError if the registry does not answer.
    """
    aliases = registry.aliases(name) or {}
    newest, champion = (aliases.get(alias, 0) for alias in (CANDIDATE, CHAMPION))
    text = f"{name}: v{champion} is the champion" if champion else f"{name}: no champion"
    if newest <= champion:
        return text
    return f"{text}; {registry.version(name, newest).tags.get(OUTCOME_TAG, f'v{newest} is a candidate')}"
