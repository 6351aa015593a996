"""How the features of an example meet: one module an interaction, named as in the settings, with its class `Trunk`."""

from importlib import import_module

from exfm.models.config import NetworkConfig
from exfm.models.interactions.trunk import Trunk
from exfm.schema import Schema


def trunk_of(schema: Schema, config: NetworkConfig) -> Trunk:
    """Return a new trunk of the interaction that the settings name, for a schema that suits it."""
    trunk: Trunk = import_module(f"{__name__}.{config.interaction}").Trunk(schema, config)
    return trunk
