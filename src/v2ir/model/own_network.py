"""Networks of ours that keep their sizes beside their weights in a folder of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from v2ir.errors import ModelError
from v2ir.files import read_json, write_bytes, write_json

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class OwnNetwork(nn.Module):
    """A network that can be written and read again.

    Attributes:
        objective: Name of the training objective that makes one.
        config: Arguments that build it.
    """

    objective: ClassVar[str]
    config: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the weights and the sizes into a folder.

        Raises:
            OutputError: If the disk refuses.
        """
        from safetensors.torch import save

        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        write_bytes(folder / _WEIGHTS, save(state))
        write_json(folder / _CONFIG, self.config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, in evaluation mode and float32.

        Raises:
            ModelError: If the weights do not fill the network.
        """
        from safetensors.torch import load

        network = cls(**read_json(folder / _CONFIG))
        try:
            network.load_state_dict(load((folder / _WEIGHTS).read_bytes()))
        except RuntimeError as error:
            raise ModelError(
                f"the weights of {folder} do not fit its configuration",
                got=str(error).splitlines()[-1].strip(),
                do=f"train the stage with the objective {cls.objective} again",
            ) from error
        return network.eval()
