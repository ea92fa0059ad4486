"""`Encoded`: the latents that a codec makes of items, as a source to train on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..cond import Cond
from ..config import JSON
from ..rng import Rng
from .cache import through_cache
from .contract import Source
from .derived import (
    PROBE,
    checked_x0,
    class_names,
    part_name,
    reads_alone,
    require_itemwise,
    text_fingerprint,
    value_fingerprint,
    with_storage,
)
from .file_state import FileState
from .report import DataError, Report
from .storage import MEMORY, Storage
from .store import Data, choose, make

# The number of items that the scale is measured on.
_MEASURED = 256
_BATCH = 32


class Encodes(Protocol):
    """The methods of a codec that `Encoded` uses; `softmix.codec.Codec` is the whole protocol."""

    def encode(self, x0: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class LatentScale:
    """z = (latents - mean) / sd, per channel of latents [B, C, ...], with one mean and sd for latents [B, D].

    mean, sd : [C], or [1]. An sd of 0 counts as 1.
    """

    mean: Tensor
    sd: Tensor

    @staticmethod
    def of(latents: Tensor) -> LatentScale:
        """The mean and sd of these latents."""
        rows = latents.double().movedim(1, 0).flatten(1) if latents.ndim > 2 else latents.double().reshape(1, -1)
        sd = rows.std(1, correction=0)
        return LatentScale(rows.mean(1).float(), torch.where(sd > 0, sd, 1.0).float())

    def to(self, device: torch.device) -> LatentScale:
        """The same scale on another device."""
        return LatentScale(self.mean.to(device), self.sd.to(device))

    def scaled(self, latents: Tensor) -> Tensor:
        """z of latents."""
        return (latents - _along(self.mean, latents)) / _along(self.sd, latents)

    def raw(self, z: Tensor) -> Tensor:
        """Latents of z."""
        return z * _along(self.sd, z) + _along(self.mean, z)


def _along(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like).reshape(1, -1, *(1,) * (like.ndim - 2))


class Encoded:
    """x0 = the latents of the items of `data`, with mean 0 and sd 1 in each channel. A `Source`.

    codec : anything with encode(x0) -> latents and decode(latents) -> x0, such as `softmix.codec.VAE`.
    scale : the scale of the latents. By default it is measured on up to 256 items, a fixed choice. Latents of a
        codec with a `scale` of its own (not None) stay as they are.

    Latents are computed for each batch; `cached` returns a source that has computed them once. Conditions are those of
    `data`. An image condition on the grid of the items is encoded too, so that it is on the grid of the latents.
    `decode` maps z back to items. The fingerprint depends on the data, and on `codec.fingerprint` if it exists, else on
    the latents of a few items in three decimals.

    Raises DataError if the latents of an item depend on its batch (put a module into eval mode), or are not finite.
    """

    is_image = False

    def __init__(self, data: Source, codec: Encodes, scale: LatentScale | None = None):
        self.data, self.codec = data, codec
        self._latents: Tensor | None = None
        # the source of the conditions, once the latents are known
        self._beside = data
        self._scales: dict[torch.device, LatentScale] = {}
        self.reads_alone = reads_alone(data)
        name = part_name(codec)
        self.name, self._who = f"{data.name}, encoded by {name}", f"the codec {name}"
        if not len(data):
            raise DataError(f"{data.name} has no items that {self._who} could encode")
        index = choose(len(data), _MEASURED)
        few = self._few(index[:PROBE])
        own_scale = getattr(codec, "scale", None) is not None
        self.scale = scale or (None if own_scale else self._measured(index))
        self.shape, self.classes = tuple(few.shape[1:]), class_names(data)
        self.cond = data.cond
        if data.cond.image:
            if data.cond.image != data.shape[0]:
                raise DataError(
                    f"{self.name}: the image condition has {data.cond.image} channels and the codec takes "
                    f"{data.shape[0]}; give a condition that it can encode, so that it is on the grid of the latents"
                )
            self.cond = replace(data.cond, image=self.shape[0])
        own = getattr(codec, "fingerprint", None)
        given = "" if scale is None else value_fingerprint(torch.stack([scale.mean, scale.sd]))
        content = self._of_codec = own if isinstance(own, str) else value_fingerprint(few)
        self.fingerprint = text_fingerprint("latents", data.fingerprint, self.shape, content, given)

    @property
    def parents(self) -> tuple[tuple[str, str, str], ...]:
        """The codec, as a parent of a run on these latents."""
        return (("codec", part_name(self.codec), self._of_codec),)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Cond | None]:
        """Return (latents z [B, *shape], the condition of the items). They are on the device of `data`."""
        x0, cond = self._beside.batch(index, rng)
        z = self._z(x0, index) if self._latents is None else self._latents[index.to(self._latents.device)]
        if cond is None or cond.image is None:
            return z, cond
        image = self._z(cond.image, index)
        return checked_x0(z, image, index, self._who), replace(cond, image=image)

    def with_storage(self, change: Callable[[Tensor], Tensor]) -> Encoded | None:
        """The same source with the stored tensors of `data`, and the known latents, changed; None if it shows none."""
        beside = with_storage(self._beside, change)
        if beside is None:
            return None
        result = copy.copy(self)
        result._beside = beside
        result._latents = None if self._latents is None else change(self._latents)
        return result

    def decode(self, z: Tensor) -> Tensor:
        """The items of latents z, for example of samples."""
        with torch.no_grad():
            return self.codec.decode(z if self.scale is None else self.scale.raw(z))

    def cached(self, cache: str | Path | None = None) -> Encoded:
        """The same source with the latents of all items computed once.

        cache : a folder to store them in; None for memory. The same data and codec find them there again.
        Raises DataError if there is no space for them.
        """
        if cache is None:
            values = self._all(MEMORY).values
        else:
            asked: JSON = {"latents": self.fingerprint}
            values = through_cache(
                Path(cache), self.data.name, asked, lambda: FileState(0, ""), lambda storage: (self._all(storage),)
            )[0].values
        result = copy.copy(self)
        result._latents = values
        if isinstance(self.data, Data):
            # its items are not needed again, only its labels
            result._beside = replace(self.data, values=self.data.values.flatten(1)[:, :0])
        return result

    def _all(self, storage: Storage) -> Data:
        values = storage.empty(self.name, (len(self), *self.shape), "float32")
        for at in storage.progress(range(0, len(self), _BATCH), "latents"):
            index = torch.arange(at, min(at + _BATCH, len(self)), device="cpu")
            values[at : at + _BATCH] = self.batch(index, _rng(index))[0].cpu().numpy()
        return make(self.name, torch.from_numpy(values), None, (), Report(len(self)))

    def _few(self, index: Tensor) -> Tensor:
        """The latents of a few items, each of which is tried alone too."""
        x0, _ = self.data.batch(index, _rng(index))
        return require_itemwise(lambda x, _: self._raw(x, index[: len(x)]), x0, _rng(index), self._who)

    def _measured(self, index: Tensor) -> LatentScale:
        parts = [self._raw(self.data.batch(few, _rng(few))[0], few) for few in index.split(_BATCH)]
        return LatentScale.of(torch.cat(parts))

    def _z(self, x0: Tensor, index: Tensor) -> Tensor:
        raw = self._raw(x0, index)
        if self.scale is None:
            return raw
        if raw.device not in self._scales:
            self._scales[raw.device] = self.scale.to(raw.device)
        return self._scales[raw.device].scaled(raw)

    def _raw(self, x0: Tensor, index: Tensor) -> Tensor:
        with torch.no_grad():
            latents = self.codec.encode(x0)
        latents = checked_x0(latents, latents, index, self._who)
        return latents.to(x0.device, torch.float32)


def _rng(index: Tensor) -> Rng:
    return Rng(0, index, "softmix.data.latents")
