"""Diffusers in and out.

`from_diffusers` makes a denoiser of a diffusers model, so that every sampler and measure runs on what people own;
`AdamsScheduler`, `EVODiffScheduler` and the others put softmix's samplers into diffusers' pipelines; `export` writes
a folder that `DiffusionPipeline.from_pretrained` loads. Needs the extra: pip install "softmix[diffusers]".
"""

try:
    import diffusers as _diffusers  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'softmix.hub needs diffusers, which is not installed: pip install "softmix[diffusers]"'
    ) from error

# diffusers looks for these names where the class of a component is defined
from diffusers import ModelMixin, SchedulerMixin

from .drawing import Drawing, drawing
from .export import SoftmixModel, SoftmixPipeline, export
from .host import SoftmixScheduler
from .keywords import Keywords
from .reading import HubError
from .schedulers import (
    SCHEDULERS,
    AdamsScheduler,
    AncestralScheduler,
    DPMSolver2MScheduler,
    DPMSolver2SScheduler,
    DPMSolver3MScheduler,
    DPMSolver3SScheduler,
    DPMSolverV3Scheduler,
    EVODiffScheduler,
    FONScheduler,
    FPNDMScheduler,
    HeunScheduler,
    PLMSScheduler,
    RenoiseScheduler,
    SDEDPMSolver2MScheduler,
    TransferScheduler,
    UniPCScheduler,
)
from .source import DiffusersDenoiser, from_diffusers

__all__ = [
    "SCHEDULERS",
    "AdamsScheduler",
    "AncestralScheduler",
    "DPMSolver2MScheduler",
    "DPMSolver2SScheduler",
    "DPMSolver3MScheduler",
    "DPMSolver3SScheduler",
    "DPMSolverV3Scheduler",
    "DiffusersDenoiser",
    "Drawing",
    "EVODiffScheduler",
    "FONScheduler",
    "FPNDMScheduler",
    "HeunScheduler",
    "HubError",
    "Keywords",
    "ModelMixin",
    "PLMSScheduler",
    "RenoiseScheduler",
    "SDEDPMSolver2MScheduler",
    "SchedulerMixin",
    "SoftmixModel",
    "SoftmixPipeline",
    "SoftmixScheduler",
    "TransferScheduler",
    "UniPCScheduler",
    "drawing",
    "export",
    "from_diffusers",
]
