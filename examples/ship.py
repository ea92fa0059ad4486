"""Make a small folder of a trained run, for release: config.json, averaged weights in half precision, a model card.

    softmix train fashion-mnist --out runs/fashion --minutes 60
    python examples/ship.py runs/fashion src/softmix/shipped/fashion --made "softmix train fashion-mnist --minutes 60"

The result is a run folder for `softmix.load`. Its training cannot continue. Half precision changes a weight by at most
1 part in 2,000. Sampling still computes in single precision.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import torch

import softmix
from softmix.train import checkpoint

LARGEST = 8_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--made", required=True, help="the command that trained it")
    options = parser.parse_args()
    model = softmix.load(options.run)
    newest = checkpoint.latest(options.run / "checkpoints", only=(model.weights,))
    assert newest is not None
    half = {entry: {k: v.to(torch.float16) for k, v in parts.items()} for entry, parts in newest.tensors.items()}
    if options.out.exists():
        shutil.rmtree(options.out)
    options.out.mkdir(parents=True)
    shutil.copy(options.run / "config.json", options.out)
    checkpoint.save(options.out / "checkpoints", newest.step, half, newest.state, 1)
    files = sorted(options.out.glob("checkpoints/*/*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST:
        raise SystemExit(f"{size:,} bytes of weights, more than {LARGEST:,}: train a smaller net")
    hashes = "\n".join(f"- {file.name}: SHA-256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`" for file in files)
    (options.out / "README.md").write_text(
        f"# {options.out.name}\n\nTrained on {model.facts.data} ({model.facts.count:,} items, fingerprint "
        f"{model.facts.fingerprint}), {model.step:,} steps of {model.config.batch}, by\n\n    {options.made}\n\n"
        f"Averaged weights in half precision, {size:,} bytes:\n\n{hashes}\n"
    )
    softmix.load(options.out)
    print(f"wrote {options.out}, {size:,} bytes of weights")


if __name__ == "__main__":
    main()
