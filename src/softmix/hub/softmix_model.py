"""The network of a softmix run as a diffusers model."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from ..posterior import HasMean, need
from ..precision import Precision
from ..process import Gaussian, Table, unframed
from ..train import build
from ..train.record import run_of
from .class_labels import id2label_of

TRAIN_STEPS = 1000


def betas_of(process: Gaussian, steps: int = TRAIN_STEPS) -> Tensor:
    """The betas, float32 [steps], of a discrete chain with integer time k at t = (k + 1) / steps."""
    alpha_squared = process.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps) ** 2
    return (1 - alpha_squared[1:] / alpha_squared[:-1]).float()


class SoftmixModel(ModelMixin, ConfigMixin):
    """A softmix network in the place of a UNet2DModel: it predicts v at the integer times of a discrete chain.

    The call gives the posterior mean alone. `denoiser` is the softmix denoiser with its whole posterior. In half
    precision the weights stay in float32 and the products run under autocast. `config.id2label` has the class names of
    the training data, {"0": "cat", "1": "dog"}; None without classes or without names.
    """

    _autocast_dtype: torch.dtype | None = None

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As in diffusers, but without low_cpu_mem_usage: some posterior heads read their network while being built."""
        dtype = options.pop("torch_dtype", options.pop("dtype", None))
        result = super().from_pretrained(*args, **(options | {"low_cpu_mem_usage": False}))
        model = result[0] if isinstance(result, tuple) else result
        if dtype is not None:
            model.to(dtype)
        return result

    def to(self, *args: Any, **options: Any) -> Any:
        """A dtype of 16 bits becomes the dtype of `precision`; the weights keep theirs."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **options)
        if dtype is not None:
            self._autocast_dtype = dtype if dtype in (torch.float16, torch.bfloat16) else None
        wanted = {"device": device, "dtype": None if self._autocast_dtype else dtype}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        return super().to(**wanted) if wanted else self

    @property
    def precision_name(self) -> Precision:
        """The name of the precision, for `softmix.sample`."""
        names: dict[torch.dtype | None, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names.get(self._autocast_dtype, "fp32")

    def precision(self, device: torch.device) -> torch.autocast:
        """The autocast context for the network."""
        return torch.autocast(
            device.type, self._autocast_dtype or torch.bfloat16, enabled=self._autocast_dtype is not None
        )

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        run: dict[str, Any],
        step: int,
        num_class_embeds: int | None = None,
        id2label: dict[str, str] | None = None,
    ):
        super().__init__()
        self._run = run_of(run)
        names = self._run.facts.class_names
        if id2label is None and names and len(names) == num_class_embeds:
            # the names are in the record of the run, so that folders written without id2label have them too
            self.register_to_config(id2label=id2label_of(names))
        self.network = build(self._run)["model"]
        self.table = Table.of_betas(betas_of(unframed(self._run.config.task.process, "a folder for diffusers")))

    @property
    def denoiser(self) -> Any:
        """The softmix denoiser."""
        return self._run.config.task.result(self.network, self._run.facts, self.config.step)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """v = alpha z - sigma x0 of the posterior mean.

        sample : x_t, [B, C, H, W].
        timestep : integer time, [] or [B].
        class_labels : [B]. A label that is no class, or None, means "no class".
        """
        t = ((torch.as_tensor(timestep, dtype=torch.float64) + 1) / TRAIN_STEPS).to(sample.device)
        if class_labels is not None:
            classes = self.config.num_class_embeds or 0
            class_labels = torch.where((class_labels >= 0) & (class_labels < classes), class_labels, -1)
        x = sample.float()
        with self.precision(x.device):
            x0 = need(self.denoiser(x, t, class_labels), HasMean, "an exported model").mean.float()
        shape = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = (part(t).to(x).reshape(shape) for part in (self.table.alpha, self.table.sigma))
        v = ((alpha * x - x0) / sigma).to(sample.dtype)
        return UNet2DOutput(sample=v) if return_dict else (v,)


# a saved pipeline names the module of its classes: the room, not the file
SoftmixModel.__module__ = "softmix.hub"
