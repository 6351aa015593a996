"""Where tensors lie and are computed with."""

import torch

from exfm.errors import ConfigError

CPU = torch.device("cpu")


def device_of(name: str) -> torch.device:
    """Return the device `cpu` or `cuda`.

    Raises: ConfigError if there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(
            f"device is 'cuda', but torch {torch.__version__}, built {built}, finds no GPU here; set 'cpu', or run the "
            "image for CUDA on a node with a GPU and its driver"
        )
    return torch.device(name)
