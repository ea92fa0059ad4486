"""softmix on one GPU: every table of speed, memory and agreement in one run, beside other libraries.

    python bench/gpu.py --out gpu.json                       # about 8 minutes on one GPU
    python bench/gpu.py --only training profile --seconds 2
    python bench/gpu.py --quick                              # small networks, under a minute on a CPU: does it run?
    python bench/gpu.py --report gpu.json                    # the Markdown of a saved run

The tables are Markdown on standard output, and JSON in the file `--out`, which is written after each row. Each table
has a budget of seconds. When it is over the table ends after its present row, and says so. An error ends one table and
not the others. Without a GPU the same program measures the CPU, with its name. diffusers and
denoising-diffusion-pytorch run in processes of their own (bench/peer.py), with the Python of `--peers-python`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# torch reads this before its first product on the GPU; only then are products deterministic
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from clock import default_device
from gpu_tables import checks, memory, sampling, training
from gpu_tables.contract import Bench, Outcome, Table, line_of, measured

import softmix

TABLES: dict[str, Table] = {
    **training.TABLES,
    **sampling.TABLES,
    **checks.TABLES,
    **memory.TABLES,
}
# the environment that bench/peers.py makes
PEERS = Path(".venv-peers/bin/python")


def machine(device: torch.device) -> dict[str, str]:
    """The names and versions that the numbers depend on."""
    facts = {
        "device": _processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "softmix": softmix.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        facts |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version()), "driver": _driver()}
        properties = torch.cuda.get_device_properties(device)
        facts["memory"] = f"{properties.total_memory / 1e9:.0f} GB"
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def markdown(facts: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """The whole report."""
    head = ", ".join(f"{name} {value}" if name != "device" else value for name, value in facts.items())
    return "\n".join([f"Measured in one run on: {head}.", "", *(outcome.markdown() for outcome in outcomes)])


def run(bench: Bench, only: Sequence[str], factor: float, out: Path | None) -> list[Outcome]:
    """Measure the tables. After each row the file `out` is written."""
    facts, outcomes = machine(bench.device), dict[str, Outcome]()

    def write(name: str, outcome: Outcome) -> None:
        outcomes[name] = outcome
        if out is not None:
            record = {"machine": facts, "tables": {each: outcomes[each].record() for each in outcomes}}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")

    def show(name: str, outcome: Outcome) -> None:
        print(line_of(outcome.rows[-1]), file=sys.stderr, flush=True)
        write(name, outcome)

    for name in only:
        print(f"{name}: at most {factor * TABLES[name].budget:.0f} s", file=sys.stderr, flush=True)
        write(name, measured(TABLES[name], bench, factor, partial(show, name)))
    return list(outcomes.values())


def report(paths: Sequence[Path]) -> str:
    """The Markdown of saved runs on one machine. Raises SystemExit if they are of several."""
    records: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    facts = records[0]["machine"]
    for path, record in zip(paths, records, strict=True):
        if record["machine"] != facts:
            raise SystemExit(f"{path} is of {record['machine']}, and {paths[0]} of {facts}: report each by itself")
    tables = {name: table for record in records for name, table in record["tables"].items()}
    return markdown(facts, [Outcome(**each) for each in tables.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="tables; by default all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring for each row")
    parser.add_argument("--budget", type=float, default=1.0, help="factor of the time that each table may take")
    parser.add_argument("--quick", action="store_true", help="small networks and batches: does the program run?")
    parser.add_argument("--peers-python", type=Path, default=PEERS if PEERS.exists() else Path(sys.executable))
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu"), help="for the runs of the presets")
    parser.add_argument("--out", type=Path, help="a file for the numbers, JSON")
    parser.add_argument("--report", type=Path, nargs="+", help="print the tables of such files, measure nothing")
    options = parser.parse_args()
    if options.report is not None:
        print(report(options.report))
        return
    seconds = min(options.seconds, 0.05) if options.quick else options.seconds
    bench = Bench(default_device(), options.quick, seconds, options.peers_python, options.folder)
    began = time.perf_counter()
    outcomes = run(bench, options.only, options.budget, options.out)
    print(markdown(machine(bench.device), outcomes))
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
