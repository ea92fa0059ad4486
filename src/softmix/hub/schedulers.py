"""The room of the hub: each sampler of means under a name of its own."""

from __future__ import annotations

from .host import SoftmixScheduler


class AncestralScheduler(SoftmixScheduler):
    """`ancestral`: from a mean alone, DDPM's sampler with the smaller of its two variances."""

    sampler = "ancestral"


class RenoiseScheduler(SoftmixScheduler):
    """`renoise`: x0 noised anew in each step."""

    sampler = "renoise"


class TransferScheduler(SoftmixScheduler):
    """`ddim`; {"eta": 1.0} among the options for fresh noise."""

    sampler = "ddim"


class HeunScheduler(SoftmixScheduler):
    """`heun`: two evaluations a step."""

    sampler = "heun"


class PLMSScheduler(SoftmixScheduler):
    """`plms`; S-PNDM with {"order": 2}."""

    sampler = "plms"


class FPNDMScheduler(SoftmixScheduler):
    """`f_pndm`: nine evaluations more than steps."""

    sampler = "f-pndm"


class FONScheduler(SoftmixScheduler):
    """`fon`: the classical rule that PNDM is set against."""

    sampler = "fon"


class DPMSolver2MScheduler(SoftmixScheduler):
    """`dpm_solver_2m`."""

    sampler = "dpm-solver-2m"
    spaced_like = "dpm"


class DPMSolver3MScheduler(SoftmixScheduler):
    """`dpm_solver_3m`, of third order."""

    sampler = "dpm-solver-3m"
    spaced_like = "dpm"


class DPMSolver2SScheduler(SoftmixScheduler):
    """`dpm_solver_2s`: two evaluations a step."""

    sampler = "dpm-solver-2s"
    spaced_like = "dpm"


class DPMSolver3SScheduler(SoftmixScheduler):
    """`dpm_solver_3s`: three evaluations a step."""

    sampler = "dpm-solver-3s"
    spaced_like = "dpm"


class SDEDPMSolver2MScheduler(SoftmixScheduler):
    """`sde_dpm_solver_2m`: fresh noise in each step."""

    sampler = "sde-dpm-solver-2m"
    spaced_like = "dpm"


class UniPCScheduler(SoftmixScheduler):
    """`unipc`; {"order": 3} or {"line": "bh1"} among the options."""

    sampler = "unipc"
    spaced_like = "dpm"


class AdamsScheduler(SoftmixScheduler):
    """`adams`: predictor and corrector with exact integrals."""

    sampler = "adams"
    spaced_like = "dpm"


class DPMSolverV3Scheduler(SoftmixScheduler):
    """`dpm_solver_v3`; {"statistics": "path"} among the options, without which it is the exponential rule."""

    sampler = "dpm-solver-v3"
    spaced_like = "dpm"


class EVODiffScheduler(SoftmixScheduler):
    """`evodiff`; {"form": "released"} among the options for the authors' own form."""

    sampler = "evodiff"
    spaced_like = "dpm"


SCHEDULERS: tuple[type[SoftmixScheduler], ...] = (
    *(AncestralScheduler, RenoiseScheduler, TransferScheduler, HeunScheduler, PLMSScheduler, FPNDMScheduler),
    *(FONScheduler, DPMSolver2MScheduler, DPMSolver3MScheduler, DPMSolver2SScheduler, DPMSolver3SScheduler),
    *(SDEDPMSolver2MScheduler, UniPCScheduler, AdamsScheduler, DPMSolverV3Scheduler, EVODiffScheduler),
)

# folders name the room, and diffusers looks for its own classes beside the name
for _each in (SoftmixScheduler, *SCHEDULERS):
    _each.__module__ = "softmix.hub"
