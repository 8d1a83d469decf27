"""The sampling room: guidance, solvers, geometry, and the translator of whole folders."""

from v2ir.sampling.annotators import Annotators, find_maps, read_captions
from v2ir.sampling.generate import GenerateReport, Picture, generate, list_pictures
from v2ir.sampling.geometry import Geometry
from v2ir.sampling.guidance import GuidedDenoiser
from v2ir.sampling.jobs import Job, find_jobs
from v2ir.sampling.prompts import Prompt, read_prompts
from v2ir.sampling.sidecar import Sidecar
from v2ir.sampling.solvers import SOLVERS, solve
from v2ir.sampling.text_sampler import GenerateSettings, TextSampler
from v2ir.sampling.translate import TranslateReport, pending, translate
from v2ir.sampling.translator import TranslateSettings, Translator
from v2ir.sampling.windows import WindowedDenoiser, Windows

__all__ = [
    "SOLVERS",
    "Annotators",
    "GenerateReport",
    "GenerateSettings",
    "Geometry",
    "GuidedDenoiser",
    "Job",
    "Picture",
    "Prompt",
    "Sidecar",
    "TextSampler",
    "TranslateReport",
    "TranslateSettings",
    "Translator",
    "WindowedDenoiser",
    "Windows",
    "find_jobs",
    "find_maps",
    "generate",
    "list_pictures",
    "pending",
    "read_captions",
    "read_prompts",
    "solve",
    "translate",
]
