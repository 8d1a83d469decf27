"""The networks of a model, built from sizes; all of them are diffusers' and transformers'."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from v2ir.errors import UnknownNameError
from v2ir.model.pooling import pooling


class Architecture(BaseModel):
    """Sizes of the four parts of a model, as their libraries' own configuration.

    Attributes:
        autoencoder_class: `AutoencoderKL` or `AutoencoderDC` of diffusers, or our own
            `PixelAutoencoder`.
        autoencoder: Its configuration.
        unet: Configuration of diffusers' `UNet2DConditionModel`.
        text_encoder_class: Row of `v2ir.model.text.TEXT_ENCODERS`.
        text_encoder: Its configuration.
        scheduler: Configuration of diffusers' `DDPMScheduler`: the noise schedule.
        image_channels: Channels of a pre-trained image encoder's features beside the
            visible image's latent; 0 has no such encoder.
        factor: Pixels of the image for one pixel of the latent, along a side.
        words: Words that a small tokenizer knows as one piece; empty where the
            tokenizer comes with pre-trained weights.
    """

    model_config = ConfigDict(frozen=True)

    autoencoder_class: str = "AutoencoderKL"
    autoencoder: dict[str, Any]
    unet: dict[str, Any]
    text_encoder_class: str = "CLIPTextModel"
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    image_channels: int = 0
    factor: int = 8
    words: tuple[str, ...] = ()


_PUBLISHED_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
}
# With a last timestep that still shows the image, a dark camera's mean brightness cannot be
# sampled from pure noise. Source: Lin et al. 2024, "Common diffusion noise schedules ...".
_ZERO_SNR_SCHEDULE: dict[str, Any] = {
    **_PUBLISHED_SCHEDULE,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def _unet(
    blocks: Sequence[int], attention: Sequence[bool], layers: int, **more: Any
) -> dict[str, Any]:
    down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention]
    up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)]
    return {
        "block_out_channels": list(blocks),
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": layers,
        **more,
    }


def _clip_text(width: int, layers: int, heads: int, length: int, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": length,
    }


def _word_piece_text(
    width: int, layers: int, heads: int, length: int, vocabulary: int
) -> dict[str, Any]:
    """Return latent diffusion's own text encoder: heads of 64 channels, normed before layers."""
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "encoder_ffn_dim": 4 * width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "head_dim": 64,
        "max_position_embeddings": length,
        "dropout": 0.0,
        "pad_token_id": 0,
    }


def _infrared_autoencoder(
    blocks: Sequence[int], layers: int, latents: int, **more: Any
) -> dict[str, Any]:
    """Return a KL autoencoder of one channel that halves the side between its blocks."""
    return {
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
        "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
        "block_out_channels": list(blocks),
        "layers_per_block": layers,
        "latent_channels": latents,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        **more,
    }


def _small_autoencoder(
    channels: Sequence[int], layers: Sequence[int], latents: int
) -> dict[str, Any]:
    number = len(channels)
    return {
        "in_channels": 3,
        "latent_channels": latents,
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": list(channels),
        "decoder_block_out_channels": list(channels),
        "encoder_layers_per_block": list(layers),
        "decoder_layers_per_block": list(layers),
        "encoder_qkv_multiscales": [[] for _ in range(number)],
        "decoder_qkv_multiscales": [[] for _ in range(number)],
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 1.0,
    }


def _stable_diffusion(in_channels: int) -> Architecture:
    blocks, attention = (320, 640, 1280, 1280), (True, True, True, False)
    unet = _unet(blocks, attention, 2, cross_attention_dim=768, attention_head_dim=8)
    return Architecture(
        autoencoder={
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "latent_channels": 4,
            "sample_size": 512,
            "scaling_factor": 0.18215,
        },
        unet={"sample_size": 64, "in_channels": in_channels, "out_channels": 4, **unet},
        text_encoder=_clip_text(768, 12, 12, 77, 49408),
        scheduler=_PUBLISHED_SCHEDULE,
    )


def _small(
    latents: int,
    autoencoder: tuple[Sequence[int], Sequence[int]],
    unet: dict[str, Any],
    text: tuple[int, int, int, int],
    image_channels: int = 0,
) -> Architecture:
    """Return a small model of the same kind: 3 latents in, class embedding for styles."""
    width, layers, heads, length = text
    return Architecture(
        autoencoder_class="AutoencoderDC",
        autoencoder=_small_autoencoder(*autoencoder, latents),
        unet={
            "sample_size": 32,
            "in_channels": 3 * latents + image_channels,
            "out_channels": latents,
            "cross_attention_dim": width,
            **unet,
        },
        text_encoder=_clip_text(width, layers, heads, length, 0),
        scheduler=_ZERO_SNR_SCHEDULE,
        image_channels=image_channels,
    )


def _pixels(blocks: Sequence[int], patch: int, groups: int, width: int) -> Architecture:
    """Return a U-Net on pixels that makes a picture at once, from zeros.

    The deepest block attends, as the small denoisers' does; its text is always the same.

    Args:
        blocks: Channels of the blocks, from the finest.
        patch: Side in pixels of the squares that are folded into channels.
        groups: Groups of the normalisation.
        width: Width of the text encoder.
    """
    attention = [False] * (len(blocks) - 1) + [True]
    unet = _unet(blocks, attention, 1, attention_head_dim=4, norm_num_groups=groups)
    return Architecture(
        autoencoder_class="PixelAutoencoder",
        autoencoder={"in_channels": 3, "patch": patch},
        unet={
            "sample_size": 256 // patch,
            "in_channels": 2 * 3 * patch**2,
            "out_channels": 3 * patch**2,
            "cross_attention_dim": width,
            **unet,
        },
        text_encoder=_clip_text(width, 1, 2, 8, 0),
        scheduler={**_ZERO_SNR_SCHEDULE, "prediction_type": "sample"},
        factor=patch,
    )


def _text_to_infrared(widths: Sequence[int]) -> Architecture:
    """Return the full size of TxT2IR: one channel, and a text encoder to be trained.

    Source: TxT2IR's released code: multipliers 1-2-4-4-8 on 128; BERT's word pieces, 77
    tokens, 32 layers of latent diffusion's own text encoder with 8 heads.

    Args:
        widths: Channels of the autoencoder; each further one halves the latent's side.
    """
    blocks, attention = (320, 640, 1280, 1280), (True, True, True, False)
    factor = 2 ** (len(widths) - 1)
    unet = _unet(blocks, attention, 2, cross_attention_dim=768, attention_head_dim=8)
    return Architecture(
        autoencoder=_infrared_autoencoder(widths, 2, 4),
        unet={"sample_size": 512 // factor, "in_channels": 4, "out_channels": 4, **unet},
        text_encoder_class="LDMBertModel",
        text_encoder=_word_piece_text(768, 32, 8, 77, 30_522),
        scheduler=_PUBLISHED_SCHEDULE,
        factor=factor,
    )


def _small_text_to_infrared(
    latents: int,
    autoencoder: dict[str, Any],
    unet: dict[str, Any],
    text: tuple[int, int, int, int],
) -> Architecture:
    """Return a small model of the same kind that samples dark scenes from pure noise.

    Its text encoder norms before each layer, as the large one does. Transformers' BERT, which
    norms after, gave the same words for every prompt after a thousand steps at 1e-3.
    """
    width, layers, heads, length = text
    return Architecture(
        autoencoder=autoencoder,
        unet={
            "sample_size": 32,
            "in_channels": latents,
            "out_channels": latents,
            "cross_attention_dim": width,
            **pooling(width),
            **unet,
        },
        text_encoder_class="LDMBertModel",
        text_encoder=_word_piece_text(width, layers, heads, length, 0),
        scheduler=_ZERO_SNR_SCHEDULE,
        factor=2 ** (len(autoencoder["block_out_channels"]) - 1),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "sd15": _stable_diffusion(12),
    "mini": _small(
        8,
        ((16, 32, 64, 128), (0, 1, 2, 2)),
        _unet((64, 96, 128), (False, False, True), 1, attention_head_dim=4, norm_num_groups=16),
        (128, 2, 4, 48),
        image_channels=64,
    ),
    "tiny": _small(
        4,
        ((8, 8, 16, 16), (0, 1, 1, 1)),
        _unet((16, 32), (False, True), 1, attention_head_dim=2, norm_num_groups=4),
        (16, 1, 2, 24),
    ),
    "pixels-mini": _pixels((24, 48, 64, 96, 128), 2, 8, 16),
    "pixels-tiny": _pixels((8, 16), 2, 4, 8),
    "txt2ir": _text_to_infrared((128, 256, 512, 512, 1024)),
    "txt2ir-f8": _text_to_infrared((128, 256, 512, 512)),
    "txt2ir-mini": _small_text_to_infrared(
        8,
        _infrared_autoencoder(
            (24, 48, 72, 96), 1, 8, norm_num_groups=8, mid_block_add_attention=False
        ),
        # Wide from the first level on: with 32 channels there, hours brought the loss to where
        # minutes bring it with 96.
        _unet((96, 144), (False, True), 1, attention_head_dim=4, norm_num_groups=16),
        (128, 3, 2, 48),
    ),
    "txt2ir-tiny": _small_text_to_infrared(
        4,
        _infrared_autoencoder((8, 8, 16), 1, 4, norm_num_groups=4, mid_block_add_attention=False),
        _unet((16, 32), (False, True), 1, attention_head_dim=2, norm_num_groups=4),
        (16, 1, 2, 24),
    ),
}
"""`sd15` is the full size of DiffV2IR, `txt2ir` that of TxT2IR (f = 16; `txt2ir-f8` has
f = 8); `mini` is bundled; those on pixels are for trained baselines of about as many
weights; the tiny ones are for tests."""


def architecture(name: str) -> Architecture:
    """Return a named architecture.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError.of("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def num_planes(conditions: Collection[str]) -> int:
    """Return how many latents a denoiser takes side by side: its own and those of images."""
    return 1 + ("visible" in conditions) + ("segmentation" in conditions)


def build_unet(config: Mapping[str, Any], num_styles: int = 0) -> Any:
    """Build the UNet; with styles it gets an embedding row for each and one for none."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    rows = num_styles + 1 if num_styles else None
    unet = UNet2DConditionModel(**{**config, "num_class_embeds": rows})
    if rows:
        # The embedding joins the time embedding; starting at zero, no style is a style.
        nn.init.zeros_(unet.class_embedding.weight)
    return unet


def build_autoencoder(architecture: Architecture) -> Any:
    """Build the autoencoder with random weights."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from v2ir.model.pixel_autoencoder import PixelAutoencoder

    classes = {
        "AutoencoderKL": AutoencoderKL,
        "AutoencoderDC": AutoencoderDC,
        "PixelAutoencoder": PixelAutoencoder,
    }
    if architecture.autoencoder_class not in classes:
        raise UnknownNameError.of("autoencoder class", architecture.autoencoder_class, classes)
    return classes[architecture.autoencoder_class](**architecture.autoencoder)


def build_tokenizer(words: Sequence[str], max_length: int) -> Any:
    """Build a word tokenizer; a word it does not know is read letter by letter."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    characters = [*letters, *map(str, range(10)), *",.;:'!?-()/%&+"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    pieces += [f"##{character}" for character in [*letters, *map(str, range(10))]]
    pieces += [word for word in dict.fromkeys(words) if word not in set(pieces)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=max_length)


def build_scheduler(config: Mapping[str, Any]) -> Any:
    """Build the scheduler that holds the noise schedule."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(**config)


def match_channels(autoencoder: Any, images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) with the autoencoder's number of channels.

    An autoencoder of one channel gets the mean of the three, which for an infrared image
    is the image itself. This is the only place that knows how many channels it takes.
    """
    channels = autoencoder.config.in_channels
    return images.mean(dim=1, keepdim=True) if channels == 1 else images


def encode_mode(autoencoder: Any, images: Tensor) -> Tensor:
    """Encode (N, 3, H, W) in [-1, 1] to the mode of the posterior, (N, c, H/f, W/f)."""
    encoded = autoencoder.encode(match_channels(autoencoder, images))
    return encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
