"""The model room: conditions, the denoiser and its loss, networks, the model folder."""

from v2ir.model.build import build_model
from v2ir.model.card import Guidance, GuidanceRange, ModelCard, SpeedChoice
from v2ir.model.conditions import CONDITION_NAMES, Conditions
from v2ir.model.denoiser import Denoiser, NetworkDenoiser, NoiseSchedule, denoising_loss
from v2ir.model.folder import Model, bundled_models, find_model, load_model
from v2ir.model.folding import add_guidance_embedding, embed_scales, takes_scales
from v2ir.model.networks import ARCHITECTURES, Architecture, architecture
from v2ir.model.widening import add_styles, narrow_input, widen_input

__all__ = [
    "ARCHITECTURES",
    "CONDITION_NAMES",
    "Architecture",
    "Conditions",
    "Denoiser",
    "Guidance",
    "GuidanceRange",
    "Model",
    "ModelCard",
    "NetworkDenoiser",
    "NoiseSchedule",
    "SpeedChoice",
    "add_guidance_embedding",
    "add_styles",
    "architecture",
    "build_model",
    "bundled_models",
    "denoising_loss",
    "embed_scales",
    "find_model",
    "load_model",
    "narrow_input",
    "takes_scales",
    "widen_input",
]
