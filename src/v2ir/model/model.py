"""A model: its networks, what they say of each other's numbers, and how it is saved."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v2ir.errors import UnknownNameError
from v2ir.files import write_json
from v2ir.model.card import ModelCard
from v2ir.model.conditions import Conditions
from v2ir.model.denoiser import NetworkDenoiser, NoiseSchedule
from v2ir.model.detail_decoder import beside_visible
from v2ir.model.finding import CARD_NAME
from v2ir.model.listing import (
    OWN_NETWORKS,
    OWN_PARTS,
    hide_bars,
    part_classes,
    part_names,
    subfolder,
)
from v2ir.model.networks import encode_mode
from v2ir.model.pooling import pools_text


@dataclasses.dataclass(eq=False)
class Model:
    """A model with all its parts, ready to translate.

    Attributes:
        card: What the model says about itself.
        unet: The denoising network.
        autoencoder: The autoencoder, `AutoencoderKL`, `AutoencoderDC` or `PixelAutoencoder`.
        text_encoder: The text encoder.
        tokenizer: Its tokenizer.
        scheduler: The scheduler whose configuration holds the noise schedule.
        image_encoder: The network whose features stand beside the visible image's latent;
            None where the model has none.
        detail_decoder: `DetailDecoder` that makes pictures beside the visible image, if any.
        hash: SHA-256 over the weights and the card; empty for a model not yet saved.
        decomposition: `DecompositionNetwork` where a stage trained one: it judges pictures
            in training and takes no part in making them.
        decoder: `SmallDecoder` that makes the pictures in the autoencoder's place, if any.
        encoder: `SmallEncoder` that encodes visible images and maps in the autoencoder's
            place, if any; infrared images, and latents kept for training, stay the latter's.
    """

    card: ModelCard
    unet: Any
    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    image_encoder: Any = None
    detail_decoder: Any = None
    hash: str = ""
    decomposition: Any = None
    decoder: Any = None
    encoder: Any = None

    def __post_init__(self) -> None:
        self._last_factor = 1.0
        self._embed_one = functools.lru_cache(maxsize=4096)(self._embed_prompt)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the denoising network's weights."""
        return next(self.unet.parameters()).dtype

    @property
    def _scaling_factor(self) -> float:
        """The autoencoder's factor; the last known one while it is out of memory."""
        if self.autoencoder is None:
            return self._last_factor
        return float(self.autoencoder.config.scaling_factor)

    def unload(self, name: str) -> None:
        """Let go of a part beside the UNet; latents can still be scaled."""
        self._last_factor = self._scaling_factor
        setattr(self, name, None)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """Bring the autoencoder's latents (N, c, h, w) to the scale that is denoised."""
        if not self.card.latent_std:
            return latents * self._scaling_factor
        mean, std = self._moments(latents)
        return (latents - mean) / std

    def unscale_latents(self, latents: Tensor) -> Tensor:
        """Undo `scale_latents`."""
        if not self.card.latent_std:
            return latents / self._scaling_factor
        mean, std = self._moments(latents)
        return latents * std + mean

    def scale_condition(self, latents: Tensor) -> Tensor:
        """Scale the latents of a condition (N, c, h, w) if this model wants them scaled.

        Features after the latent, (N, c + d, h, w), stay as they are.
        """
        if not self.card.scale_conditions:
            return latents
        own = self.card.channels
        scaled = self.scale_latents(latents[:, :own])
        return torch.cat([scaled, latents[:, own:]], dim=1) if latents.shape[1] > own else scaled

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
            for values in (self.card.latent_mean, self.card.latent_std)
        )
        return mean, std

    @property
    def seen_channels(self) -> int:
        """Channels of the visible condition: its latent's and the image encoder's."""
        features = self.image_encoder.config["channels"] if self.image_encoder else 0
        return int(self.card.channels + features)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule and the kind of prediction."""
        return NoiseSchedule(self.scheduler.alphas_cumprod, self.scheduler.config.prediction_type)

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The unguided denoiser."""
        return NetworkDenoiser(self.unet, self.embed_prompts([""]))

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Model:
        """Move the networks; `dtype` changes the denoising network alone."""
        own = [getattr(self, name) for name in (*OWN_PARTS, *OWN_NETWORKS)]
        for part in (self.autoencoder, self.text_encoder, *own):
            if part is not None:
                torch.nn.Module.to(part, device)
        torch.nn.Module.to(self.unet, device=device, dtype=dtype or self.dtype)
        self.forget_prompts()
        return self

    def forget_prompts(self) -> None:
        """Forget kept text embeddings, because the text encoder has changed."""
        self._embed_one.cache_clear()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode condition images, (N, 3, H, W) in [-1, 1], to latents (N, c, H/f, W/f)."""
        return self.scale_condition(self._told_latents(images.to(self.device)))

    @torch.no_grad()
    def encode_visible(self, images: Tensor) -> Tensor:
        """Encode visible images, (N, 3, H, W) in [-1, 1], with the image encoder's features.

        Returns:
            Latents, followed by d features where the model has an image encoder,
            (N, c + d, H/f, W/f).
        """
        images = images.to(self.device)
        return self.scale_condition(self._with_features(self._told_latents(images), images))

    @torch.no_grad()
    def visible_latents(self, images: Tensor) -> Tensor:
        """Return what `encode_visible` scales, always by the autoencoder itself.

        These are kept for training, under the name of the autoencoder's weights.
        """
        images = images.to(self.device)
        return self._with_features(encode_mode(self.autoencoder, images), images)

    def _told_latents(self, images: Tensor) -> Tensor:
        """Encode what a translation is told, by the small encoder where there is one."""
        if self.encoder is not None:
            return self.encoder(images.float())
        return encode_mode(self.autoencoder, images)

    def _with_features(self, latents: Tensor, images: Tensor) -> Tensor:
        if self.image_encoder is None:
            return latents
        return torch.cat([latents, self.image_encoder(images).to(latents)], dim=1)

    @torch.no_grad()
    def encode_target(self, images: Tensor) -> Tensor:
        """Encode infrared images, (N, 3, H, W) in [-1, 1], to the scaled latents to denoise."""
        return self.scale_latents(encode_mode(self.autoencoder, images.to(self.device)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode denoised latents (N, c, h, w) to images (N, 3, H, W), about [-1, 1].

        What `beside_visible` made of them is decoded by the detail decoder.
        """
        if latents.shape[1] > self.card.channels:
            return self.detail_decoder.decode(latents.float()).expand(-1, 3, -1, -1)
        if self.decoder is not None:
            return self.decoder(latents.float()).expand(-1, 3, -1, -1)
        # An autoencoder on pixels has no weights whose format would matter.
        dtype = next(self.autoencoder.parameters(), latents).dtype
        decoded = self.autoencoder.decode(self.unscale_latents(latents.to(dtype))).sample
        return decoded.expand(-1, 3, -1, -1)

    def beside_visible(self, latents: Tensor, conditions: Conditions, visible: Tensor) -> Tensor:
        """Lay what the detail decoder sees beside latents; without one they stay as they are.

        Args:
            latents: Denoised latents, (N, c, h, w).
            conditions: The conditions of the images.
            visible: The visible images in [-1, 1], (N, 3, H, W).
        """
        if self.detail_decoder is None or conditions.visible is None:
            return latents
        return beside_visible(latents, conditions.visible, visible.to(latents.device))

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Return the token numbers of prompts padded to the model's length, (N, L)."""
        encoded = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.card.text_length,
            return_tensors="pt",
        )
        return encoded.input_ids

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embed complete prompts to (N, L, D); repeated prompts are computed once."""
        return torch.cat([self._embed_one(prompt) for prompt in prompts])

    def _embed_prompt(self, prompt: str) -> Tensor:
        with torch.no_grad():
            return self.embed_tokens(self.token_ids([prompt]))

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embed token numbers (N, L) to (N, L, D), with gradients.

        For a denoiser that pools the text, padding is zero, so that it adds nothing.
        """
        ids = ids.to(self.text_encoder.device)
        text = self.text_encoder(ids, return_dict=True).last_hidden_state
        if pools_text(self.unet):
            text = text * (ids != self.tokenizer.pad_token_id).unsqueeze(-1)
        return text

    def embed(self, captions: Sequence[str | None]) -> Tensor:
        """Embed captions within the model's prompt template, to (N, L, D)."""
        return self.embed_prompts([self.card.prompt(caption) for caption in captions])

    def style_number(self, name: str | None) -> int:
        """Return the embedding row of a style; None asks for the default style.

        The name `none` is row 0, "no style".

        Raises:
            UnknownNameError: If the model does not know the style.
        """
        name = name or self.card.default_style
        if name is None or name == "none":
            return 0
        if name not in self.card.styles:
            raise UnknownNameError.of(
                f"style of the model {self.card.name}", name, (*self.card.styles, "none")
            )
        return self.card.styles.index(name) + 1

    def row_of_style(self, name: str | None) -> int:
        """Return the embedding row of a scene's style; 0 if it is unknown or not stated."""
        return self.card.styles.index(name) + 1 if name in self.card.styles else 0

    def conditions(
        self,
        *,
        visible: Tensor | None = None,
        segmentation: Tensor | None = None,
        captions: Sequence[str | None] | None = None,
        style: Tensor | None = None,
    ) -> Conditions:
        """Build the conditions of a batch from images in [-1, 1], captions and styles."""
        return Conditions(
            visible=None if visible is None else self.encode_visible(visible),
            segmentation=None if segmentation is None else self.encode(segmentation),
            text=None if captions is None else self.embed(captions),
            style=style,
            null_text=self.embed_prompts([""]),
        )

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the model folder; `dtype` such as float16 halves the files."""
        hide_bars()
        for name in part_names(lambda name: getattr(self, name) is not None):
            part = getattr(self, name)
            if dtype is not None:
                # A copy, so that the model in memory keeps its precision.
                part = torch.nn.Module.to(copy.deepcopy(part), dtype)
            part.save_pretrained(folder / subfolder(name))
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        for name in OWN_NETWORKS:
            if getattr(self, name) is not None:
                getattr(self, name).save(folder / name)
        write_json(folder / CARD_NAME, self.card.model_dump(mode="json"))
        write_json(folder / "model_index.json", part_classes(self))
