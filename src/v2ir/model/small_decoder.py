"""A small decoder beside the autoencoder, which goes on encoding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from v2ir.model.own_network import SmallNetwork


class SmallDecoder(SmallNetwork):
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

    title = "small decoder"
    objective = "decoder_distillation"

    def __init__(self, latents: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        from diffusers.models.autoencoders.vae import DecoderTiny

        super().__init__(latents, widths, blocks)
        self.layers = DecoderTiny(
            in_channels=latents,
            out_channels=1,
            num_blocks=tuple(blocks),
            block_out_channels=tuple(widths),
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (N, c, h, w) to pictures (N, 1, H, W), about [-1, 1]."""
        return self.layers(latents)
