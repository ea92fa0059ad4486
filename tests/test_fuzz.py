"""Any configuration trains, or is refused with a sentence before anything is written."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import types
import typing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from softmix.config import ConfigError, from_json
from softmix.data import DataError, load
from softmix.train import Config, TrainingError, training

SMALL = {
    int: st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 12]),
    float: st.sampled_from([-1.0, 0.0, 1e-3, 0.1, 0.5, 0.9, 1.0, 2.0, 20.0, 1e6]),
    bool: st.booleans(),
    str: st.text(max_size=2),
    type(None): st.none(),
}


def trees(kind: Any, tagged: bool = False) -> st.SearchStrategy[Any]:
    """JSON that could be meant for this annotation: every key is right, and values may be senseless."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        # most settings are as they come, or nothing would ever be trained
        optional = {field.name: trees(hints[field.name]) for field in dataclasses.fields(kind)}
        tree = st.fixed_dictionaries({}, optional=optional)
        fewer = tree.flatmap(
            lambda full: (
                st.sets(st.sampled_from(sorted(full)), min_size=min(1, len(full)), max_size=6).map(
                    lambda names: {name: full[name] for name in names}
                )
                if full
                else st.just({})
            )
        )
        return fewer.map(lambda found: {"kind": kind.__name__, **found}) if tagged else fewer
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return trees(members[0], tagged=True)
    if origin is Literal:
        return st.sampled_from(members)
    if origin is tuple:
        if members[-1] is Ellipsis:
            return st.lists(trees(members[0]), max_size=3)
        return st.tuples(*map(trees, members)).map(list)
    if origin in (Union, types.UnionType):
        return st.one_of(*(trees(member, tagged=True) for member in members))
    return SMALL[kind]


DATA = {"points": load("toy:ring", limit=64), "images": load("digits", limit=64)}
outcomes: Counter[str] = Counter()


@settings(max_examples=250, phases=[Phase.generate])
@given(trees(Config), st.sampled_from(sorted(DATA)))
def attempt(tree: Any, which: str) -> None:
    try:
        net = {"kind": "MLPSpec" if which == "points" else "UNetSpec", "width": 8}
        task = {"kind": "Denoise", "net": net} | tree.get("task", {})
        config = from_json(Config, tree | {"task": task})
    except ConfigError as error:
        assert str(error)
        outcomes["refused when read"] += 1
        return
    config = replace(config, steps=1, minutes=None, compile=False, batch=min(config.batch, 16))
    place = Path(tempfile.mkdtemp())
    out = place / "run"
    try:
        taken = [step.step for step in training(DATA[which], config, out)]
        # a step that is skipped is not taken, and the run is over
        assert taken == [1] or (taken == [] and config.nonfinite == "skip")
        assert (out / "checkpoints" / "step-000001").is_dir()
        outcomes["trained"] += 1
    except TrainingError as error:
        # a loss that is not finite is found in a step, which is after the beginning
        assert not out.exists() or "The step was not taken" in str(error), str(error)
        outcomes["refused"] += 1
        said.add(str(error))
    finally:
        shutil.rmtree(place)


said: set[str] = set()


@pytest.mark.slow
def test_any_configuration_trains_or_is_refused() -> None:
    attempt()
    print(outcomes, *said, sep="\n")
    assert min(outcomes["trained"], outcomes["refused"], outcomes["refused when read"]) > 10, outcomes


OPTIONS: dict[str, Any] = {
    "split": st.sampled_from(["train", "test", "val", "dev"]),
    "size": st.sampled_from([0, 2, 4, 6, 100]),
    "channels": st.sampled_from([1, 2, 3, 4]),
    "limit": st.sampled_from([0, 1, 3, 10**9]),
    "bits": st.sampled_from([0, 1, 8, 12, 16]),
    "values": st.sampled_from(["0..1", "-1..1", "0..255", "as-is", ""]),
    "layout": st.sampled_from(["channels-first", "channels-last", ""]),
    "hold_out": st.sampled_from([0.0, 0.3, 1.0, math.nan]),
}
# of all at once nearly nothing is loaded
FEW = st.sets(st.sampled_from(sorted(OPTIONS)), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: OPTIONS[name] for name in names})
)
ARRAYS = st.tuples(
    st.sampled_from([(6,), (6, 2), (6, 4, 5), (6, 3, 4, 4), (6, 5, 5, 1), (6, 4, 3, 4), (6, 2, 2, 2, 2), (0, 3)]),
    st.sampled_from(["u1", "?", "i2", "u2", "i8", "f2", "f4", ">f8", "c8"]),
    st.sampled_from([-1000.0, -1.0, 0.0]),
    st.sampled_from([0.0, 1.0, 200.0, 255.0, 4095.0, math.inf]),
)


@pytest.mark.parametrize(("source", "most"), [("array", 120), ("digits", 30), ("toy:ring", 30)])
def test_any_options_load_or_are_refused(source: str, most: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("data")
    ends: Counter[str] = Counter()

    @settings(max_examples=most, phases=[Phase.generate], derandomize=True, deadline=None)
    @given(ARRAYS, FEW)
    def attempt_to_load(array: Any, options: Any) -> None:
        shape, kind, low, high = array
        with np.errstate(all="ignore"):
            values = np.linspace(low, 0 if math.isinf(high) else high, math.prod(shape)).reshape(shape)
            values[values == 0] = high if math.isinf(high) else 0
            np.save(
                place / "a.npy", np.nan_to_num(values, posinf=9).astype(kind) if np.dtype(kind).kind != "f" else values
            )
        name = str(place / "a.npy") if source == "array" else source
        try:
            data = load(name, **options)
        except DataError as error:
            assert str(error)
            ends["refused"] += 1
            return
        assert len(data) >= 1 and bool(torch.isfinite(data.x0()).all())
        assert data.origin is not None and load(name, **data.origin.options()).fingerprint == data.fingerprint  # type: ignore[arg-type]
        ends["loaded"] += 1

    attempt_to_load()
    assert min(ends["loaded"], ends["refused"]) >= most // 12, ends
