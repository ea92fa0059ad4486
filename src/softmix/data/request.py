"""`Request`: the options of `load`, checked, and the choice of a split."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from .origin import Layout, Tokens, Values
from .report import DataError, NoSplitError
from .storage import MEMORY, Storage

# Tokens are stored in 32 bits.
MAX_TOKENS = 1 << 31
SPLITS = ("train", "test", "val")
# Common names of splits. If a source uses several names of one split, the first one of this list counts.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
}


@dataclass(frozen=True)
class Request:
    """The options of `load`; see there.

    split : "train", "test" or "val".
    storage : the arrays that values are written into.
    Raises DataError if an option makes no sense.
    """

    split: str = "train"
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    bits: int | None = None
    values: Values | None = None
    layout: Layout | None = None
    hold_out: float = 0.0
    tokens: Tokens | None = None
    length: int | None = None
    spacing: tuple[float, float, float] | None = None
    max_pixels: int | None = None
    storage: Storage = MEMORY

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DataError(f"the split {self.split!r} was asked for; there are 'train' and 'test', and 'val' for some")
        if self.size is not None and not 2 <= self.size <= 8192:
            raise DataError(f"a size of {self.size} pixels was asked for; give 2 to 8192")
        if self.channels not in (None, 1, 3, 4):
            raise DataError(f"{self.channels} channels were asked for; give 1 (grey), 3 (colour) or 4 (with alpha)")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"a limit of {self.limit} items was asked for; give 1 or more")
        if self.bits is not None and not 1 <= self.bits <= 16:
            raise DataError(f"{self.bits} bits were asked for; give 1 to 16, as many as the largest value needs")
        if self.values not in (None, *get_args(Values)):
            raise DataError(f"values {self.values!r} were asked for; there are {', '.join(get_args(Values))}")
        if self.layout not in (None, *get_args(Layout)):
            raise DataError(f"the layout {self.layout!r} was asked for; there are {', '.join(get_args(Layout))}")
        if not 0 <= self.hold_out < 1:
            raise DataError(f"a share of {self.hold_out} was to be held out; give 0 to below 1, such as 0.1")
        if self.bits is not None and self.values is not None:
            raise DataError(f"bits {self.bits} and values {self.values} were asked for; both define white: give one")
        if self.max_pixels is not None and self.max_pixels < 4:
            raise DataError(f"at most {self.max_pixels} pixels a picture were asked for; give 4 or more")
        self._check_tokens()
        if self.spacing is not None and not (len(self.spacing) == 3 and all(0 < d < math.inf for d in self.spacing)):
            raise DataError(f"a voxel spacing of {self.spacing} was asked for; give three lengths above 0: dz, dy, dx")

    def _check_tokens(self) -> None:
        read = self.tokens in ("characters", "bytes")
        whole = isinstance(self.tokens, int) and not isinstance(self.tokens, bool) and 2 <= self.tokens <= MAX_TOKENS
        if not (self.tokens is None or read or whole):
            raise DataError(
                f"tokens {self.tokens!r} were asked for; give 'characters' or 'bytes' of a text, or of an array of "
                f"whole numbers how many tokens there are, 2 to {MAX_TOKENS}"
            )
        if read != (self.length is not None):
            raise DataError(
                f"tokens {self.tokens!r} and the length {self.length} were asked for; a text is cut into items of a "
                "length, and nothing else is: give both or neither"
            )
        if self.length is not None and self.length < 1:
            raise DataError(f"a length of {self.length} tokens was asked for; give 1 or more")

    def refuse_options(self, name: str, why: str, *options: str) -> None:
        """Raises DataError if one of `options` was given.

        name : the source, for the message.
        why : the reason why the source has no use for the options.
        """
        given = [option for option in options if getattr(self, option) is not None]
        if given:
            raise DataError(f"{name} {why}, and has no {' or '.join(given)} to choose; leave this out")

    def require_few_pixels(self, name: str, width: int, height: int) -> None:
        """Raises DataError if pictures that are not resized have more than `max_pixels` pixels."""
        if self.size is None and self.max_pixels is not None and width * height > self.max_pixels:
            raise DataError(
                f"{name}: the pictures are {width}x{height}, and at most {self.max_pixels} pixels each were asked for, "
                "since no network here trains on larger ones: give --size 64, or another side"
            )

    def split_of(self, name: str, has: Collection[str], remedy: str) -> str | None:
        """The split to read from a source, or None to read all items.

        name : the source, for the message.
        has : the splits that the source has.
        remedy : the advice if the split is missing.
        "test" falls back to "val" if there is no test split. A share to hold out replaces a missing test split.
        Raises NoSplitError if the split is missing.
        """
        own = [split for split in ("test", "val") if split in has]
        if own and self.hold_out:
            raise DataError(
                f"{name}: a share of {self.hold_out:g} was to be held out, but it has a {own[0]} split of its own; "
                "leave the share out"
            )
        if self.split in has:
            return self.split
        if self.split == "test" and own:
            return own[0]
        if (not own and self.hold_out) or (not has and self.split == "train"):
            return "train" if "train" in has else None
        known = f"there are {' and '.join(map(repr, has))}" if has else "it has none"
        raise NoSplitError(f"{name}: its {self.split} split was asked for, but {known}; {remedy}")
