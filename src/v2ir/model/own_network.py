"""Networks of ours that keep their sizes beside their weights in a folder of a model."""

from __future__ import annotations

from collections.abc import Sequence
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


class SmallNetwork(OwnNetwork):
    """A small part beside the autoencoder: residual blocks at several sizes of the image.

    Args:
        latents: Channels of a latent.
        widths: Channels at each size, each twice or half as large as the one before.
        blocks: Residual blocks at each size.

    Attributes:
        title: What messages call it.

    Raises:
        ModelError: If widths and blocks differ in number.
    """

    title: ClassVar[str]

    def __init__(self, latents: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != len(blocks):
            raise ModelError(
                f"a {self.title} needs as many widths as numbers of blocks",
                got=f"{len(widths)} widths, {len(blocks)} numbers of blocks",
            )
        self.config = {"latents": latents, "widths": list(widths), "blocks": list(blocks)}

    @property
    def factor(self) -> int:
        """Pixels of the picture for one of the latent, along a side."""
        return 2 ** (len(self.config["widths"]) - 1)
