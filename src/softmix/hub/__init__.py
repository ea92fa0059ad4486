"""diffusers, in both directions. Needs the extra: pip install "softmix[diffusers]".

In, a model:       `from_diffusers` turns a diffusers model or pipeline into a softmix denoiser.
Out, a sampler:    `AdamsScheduler`, `EVODiffScheduler`, ... run a softmix sampler inside a diffusers pipeline.
Out, a model:      `export` writes a softmix run as a folder for `DiffusionPipeline.from_pretrained`.

The files, by part:

    in, a model       diffusers_denoiser    `DiffusersDenoiser` and `from_diffusers`
                      load_components       pipelines and folders -> network, scheduler, VAE
                      model_conventions     scheduler -> process, prediction type, timestep, input and output scale
                      model_calls           how each model class is called
                      latents_layout        [B, C, H, W] <-> the layout that a model class takes
                      position_ids          position ids and image sizes that follow from the layout
                      keywords              `Keywords`: a condition of several parts
                      cond_keywords         cond -> keywords of the model call
                      prompt_embeddings     prompts -> prompt embeddings
                      drawing               a folder -> images, for the command line
    out, a sampler    schedulers            one scheduler class for each sampler
                      softmix_scheduler     `SoftmixScheduler`, their base: set_timesteps and step
                      scheduler_config      their configuration keys
                      config_keys           configurations of diffusers: the process, supported and refused classes
                      beta_timesteps        timestep spacing of models with a table of betas
                      flow_timesteps        timestep spacing of flow matching models
                      sigma_spacing         Karras, exponential and beta sigmas
                      sampler_run           one run of a sampler, one model output at a time
                      solver_statistics     the statistics of DPM-Solver-v3 in a scheduler's folder
    out, a model      export                a softmix run -> a folder
                      softmix_model         `SoftmixModel`, the network in this folder
                      softmix_pipeline      `SoftmixPipeline`, the pipeline for soft mixtures
"""

try:
    import diffusers as _diffusers  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'softmix.hub needs diffusers, and diffusers is not installed: pip install "softmix[diffusers]"'
    ) from error

# diffusers looks these names up in the module of a component's class
from diffusers import ModelMixin, SchedulerMixin

from .diffusers_denoiser import DiffusersDenoiser, from_diffusers
from .drawing import Drawing, drawing
from .errors import HubError
from .export import export
from .keywords import Keywords
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
from .softmix_model import SoftmixModel
from .softmix_pipeline import SoftmixPipeline
from .softmix_scheduler import SoftmixScheduler

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
