"""A small decoder beside the autoencoder, which goes on encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from v2ir.errors import ModelError
from v2ir.files import read_json, write_bytes, write_json

DECODER_DIR = "decoder"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


class SmallDecoder(nn.Module):
    """A decoder of plain convolutions: a few residual blocks at each size, no attention.

    It takes latents of unit variance, as the denoiser gives them, and makes one channel.
    The layers are diffusers' `DecoderTiny` (after TAESD, Bohan 2023).

    Args:
        latents: Channels of a latent.
        widths: Channels at each size, from the latent's to the picture's, each twice as
            large as the one before.
        blocks: Residual blocks at each size.

    Raises:
        ModelError: If widths and blocks differ in number.
    """

    def __init__(self, latents: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        from diffusers.models.autoencoders.vae import DecoderTiny

        super().__init__()
        if len(widths) != len(blocks):
            raise ModelError(
                "a small decoder needs as many widths as numbers of blocks",
                got=f"{len(widths)} widths, {len(blocks)} numbers of blocks",
            )
        self.config: dict[str, Any] = {
            "latents": latents,
            "widths": list(widths),
            "blocks": list(blocks),
        }
        self.layers = DecoderTiny(
            in_channels=latents,
            out_channels=1,
            num_blocks=tuple(blocks),
            block_out_channels=tuple(widths),
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )

    @property
    def factor(self) -> int:
        """Pixels of the picture for one of the latent, along a side."""
        return 2 ** (len(self.config["widths"]) - 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (N, c, h, w) to pictures (N, 1, H, W), about [-1, 1]."""
        return self.layers(latents)

    def save(self, folder: Path) -> None:
        """Write the weights and the sizes into a folder.

        Raises:
            OutputError: If the disk refuses.
        """
        from safetensors.torch import save

        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        write_bytes(folder / WEIGHTS_NAME, save(state))
        write_json(folder / CONFIG_NAME, self.config)


def load_small_decoder(folder: Path) -> SmallDecoder:
    """Load a decoder that `SmallDecoder.save` wrote, in evaluation mode and float32.

    Raises:
        ModelError: If the weights do not fill the network.
    """
    from safetensors.torch import load

    config: dict[str, Any] = read_json(folder / CONFIG_NAME)
    decoder = SmallDecoder(**config)
    try:
        decoder.load_state_dict(load((folder / WEIGHTS_NAME).read_bytes()))
    except RuntimeError as error:
        raise ModelError(
            f"the weights of {folder} do not fit its configuration",
            got=str(error).splitlines()[-1].strip(),
            do="train the stage with the objective decoder_distillation again",
        ) from error
    return decoder.eval()
