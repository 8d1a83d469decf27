"""The model folder: what diffusers' `save_pretrained` writes, and `v2ir.json` beside it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from v2ir.errors import ModelError, UnknownNameError
from v2ir.files import read_json, write_json
from v2ir.model.card import ModelCard
from v2ir.model.conditions import Conditions
from v2ir.model.decomposition import DECOMPOSITION_DIR, load_decomposition
from v2ir.model.denoiser import NetworkDenoiser, NoiseSchedule
from v2ir.model.finding import CARD_NAME, bundled_models, find_model
from v2ir.model.folding import takes_scales
from v2ir.model.image_encoder import ImageEncoder
from v2ir.model.listing import part_classes, part_names
from v2ir.model.networks import encode_mode, num_planes
from v2ir.model.small_decoder import DECODER_DIR, load_small_decoder
from v2ir.model.text import TEXT_ENCODERS, text_encoder_class

__all__ = ["CARD_NAME", "Model", "bundled_models", "find_model", "load_model", "load_part"]


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
        hash: SHA-256 over the weights and the card; empty for a model not yet saved.
        decomposition: `DecompositionNetwork` where a stage trained one: it judges pictures
            in training and takes no part in making them.
        decoder: `SmallDecoder` that makes the pictures in the autoencoder's place, if any.
    """

    card: ModelCard
    unet: Any
    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    image_encoder: Any = None
    hash: str = ""
    decomposition: Any = None
    decoder: Any = None

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
    def schedule(self) -> NoiseSchedule:
        """The noise schedule and the kind of prediction."""
        return NoiseSchedule(self.scheduler.alphas_cumprod, self.scheduler.config.prediction_type)

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The unguided denoiser."""
        return NetworkDenoiser(self.unet, self.embed_prompts([""]))

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Model:
        """Move the networks; `dtype` changes the denoising network alone."""
        for part in (self.autoencoder, self.text_encoder, self.image_encoder):
            if part is not None:
                torch.nn.Module.to(part, device)
        for own in (self.decomposition, self.decoder):
            if own is not None:
                own.to(device)
        torch.nn.Module.to(self.unet, device=device, dtype=dtype or self.dtype)
        self.forget_prompts()
        return self

    def forget_prompts(self) -> None:
        """Forget kept text embeddings, because the text encoder has changed."""
        self._embed_one.cache_clear()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode condition images, (N, 3, H, W) in [-1, 1], to latents (N, c, H/f, W/f)."""
        return self.scale_condition(encode_mode(self.autoencoder, images.to(self.device)))

    @torch.no_grad()
    def encode_visible(self, images: Tensor) -> Tensor:
        """Encode visible images, (N, 3, H, W) in [-1, 1], with the image encoder's features.

        Returns:
            Latents, followed by d features where the model has an image encoder,
            (N, c + d, H/f, W/f).
        """
        return self.scale_condition(self.visible_latents(images))

    @torch.no_grad()
    def visible_latents(self, images: Tensor) -> Tensor:
        """Return what `encode_visible` scales."""
        images = images.to(self.device)
        latents = encode_mode(self.autoencoder, images)
        if self.image_encoder is None:
            return latents
        return torch.cat([latents, self.image_encoder(images).to(latents)], dim=1)

    @torch.no_grad()
    def encode_target(self, images: Tensor) -> Tensor:
        """Encode infrared images, (N, 3, H, W) in [-1, 1], to the scaled latents to denoise."""
        return self.scale_latents(encode_mode(self.autoencoder, images.to(self.device)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode denoised latents (N, c, h, w) to images (N, 3, H, W), about [-1, 1]."""
        if self.decoder is not None:
            return self.decoder(latents.float()).expand(-1, 3, -1, -1)
        # An autoencoder on pixels has no weights whose format would matter.
        dtype = next(self.autoencoder.parameters(), latents).dtype
        decoded = self.autoencoder.decode(self.unscale_latents(latents.to(dtype))).sample
        return decoded.expand(-1, 3, -1, -1)

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
        ids = self.token_ids([prompt]).to(self.text_encoder.device)
        with torch.no_grad():
            return self.text_encoder(ids).last_hidden_state

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
        _hide_bars()
        for name in part_names(self.image_encoder is not None):
            part = getattr(self, name)
            if dtype is not None:
                # A copy, so that the model in memory keeps its precision.
                part = torch.nn.Module.to(copy.deepcopy(part), dtype)
            part.save_pretrained(folder / _subfolder(name))
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        if self.decomposition is not None:
            self.decomposition.save(folder / DECOMPOSITION_DIR)
        if self.decoder is not None:
            self.decoder.save(folder / DECODER_DIR)
        write_json(folder / CARD_NAME, self.card.model_dump(mode="json"))
        write_json(folder / "model_index.json", part_classes(self))


def _subfolder(name: str) -> str:
    return "vae" if name == "autoencoder" else name


def load_model(name_or_path: str | Path = "mini", device: str | torch.device = "cpu") -> Model:
    """Load a model by bundled name, local folder or hub repository, in evaluation mode.

    Weights stored in half precision are computed in float32 on the CPU.

    Raises:
        UnknownNameError: If there is no such model.
        ModelError: If the folder is incomplete or its parts do not fit together.
    """
    folder = find_model(name_or_path)
    try:
        card = ModelCard.model_validate(read_json(folder / CARD_NAME))
        model = Model(card, **_load_parts(folder), hash=_hash(folder))
    except ValidationError as error:
        raise ModelError(f"{folder / CARD_NAME} is not valid", got=str(error)) from error
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{folder} cannot be loaded", got=str(error).splitlines()[0]) from error
    _check_fit(model)
    return model.to(device)


def _load_parts(folder: Path) -> dict[str, Any]:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import AutoTokenizer

    names = part_names((folder / "image_encoder").is_dir())
    loaded = {name: load_part(folder, name) for name in names}
    loaded["tokenizer"] = AutoTokenizer.from_pretrained(folder / "tokenizer")
    loaded["scheduler"] = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    if (folder / DECOMPOSITION_DIR).is_dir():
        loaded["decomposition"] = load_decomposition(folder / DECOMPOSITION_DIR)
    if (folder / DECODER_DIR).is_dir():
        loaded["decoder"] = load_small_decoder(folder / DECODER_DIR)
    return loaded


def _hide_bars() -> None:
    """Keep transformers from drawing bars of its own: progress is the caller's to show."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def load_part(folder: Path, name: str) -> Any:
    """Load a network of a model folder, by the name of its field, in float32.

    Raises:
        ModelError: If the weights do not fill the network.
    """
    _hide_bars()
    if name == "text_encoder":
        kind = read_json(folder / "model_index.json")["text_encoder"][1]
        part, info = text_encoder_class(kind).from_pretrained(
            folder / name, dtype=torch.float32, output_loading_info=True, **TEXT_ENCODERS[kind]
        )
    else:
        part, info = _network_class(folder, name).from_pretrained(
            folder, subfolder=_subfolder(name), torch_dtype=torch.float32, output_loading_info=True
        )
    _refuse_gaps(name, info)
    return part.eval()


def _network_class(folder: Path, name: str) -> Any:
    import diffusers
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from v2ir.model.pixel_autoencoder import PixelAutoencoder

    if name == "unet":
        return UNet2DConditionModel
    if name == "image_encoder":
        return ImageEncoder
    name = read_json(folder / "model_index.json")["vae"][1]
    return PixelAutoencoder if name == "PixelAutoencoder" else getattr(diffusers, name)


def _refuse_gaps(name: str, info: dict[str, Any]) -> None:
    """Refuse weights that do not fill the network: libraries only print a report."""
    gaps = {
        kind: sorted(map(str, info.get(kind) or ()))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    found = {kind: keys for kind, keys in gaps.items() if keys}
    if found:
        raise ModelError(
            f"the weights of {name} do not fit its configuration",
            got=json.dumps({kind: keys[:5] for kind, keys in found.items()}),
            do="convert or save the model again",
        )


def _check_fit(model: Model) -> None:
    """Check that the parts and the card agree on channels, text width and styles."""
    card, unet = model.card, model.unet.config
    seen = model.image_encoder.config["channels"] if model.image_encoder else 0
    planes = num_planes(card.conditions)
    facts = {
        "input channels": (unet.in_channels, planes * card.channels + seen),
        "output channels": (unet.out_channels, card.channels),
        "text width": (unet.cross_attention_dim, model.text_encoder.config.hidden_size),
        "styles": (unet.num_class_embeds or 1, len(card.styles) + 1),
        "folded guidance": (takes_scales(model.unet), card.guidance_range is not None),
    }
    if model.decoder is not None:
        facts["small decoder"] = (model.decoder.config["latents"], card.channels)
        facts["small decoder's factor"] = (model.decoder.factor, card.factor)
    for what, (got, wanted) in facts.items():
        if got != wanted:
            raise ModelError(
                f"the {what} of the networks do not fit the model", got=f"{got}, not {wanted}"
            )


def _hash(folder: Path) -> str:
    """Return one SHA-256 over the weights and configurations of a model folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".json"}:
            total.update(path.relative_to(folder).as_posix().encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
