"""Installs the wheel of a folder where there is nothing else, and uses it there: python tools/try_wheel.py dist

A new environment in a temporary folder, none of this checkout on the path: the package is imported, `softmix --version`
answers, the model that ships is sampled into a PNG, and without the extra `report` nothing is missing for that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# what has to be in both, beside the code
INSIDE = ("softmix/py.typed", "softmix/evaluate/report.html.j2", "softmix/shipped/fashion/config.json")


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"one {pattern} was wanted in {folder}, {len(found)} are there; run `make package`")
    return found[0].resolve()


def missing(wheel: Path, sdist: Path) -> list[str]:
    """What is in neither or only in one of them, of the files of the package in the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/src/")[2] for name in archive.getnames()}
    files = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/softmix").rglob("*") if path.is_file()}
    wanted = {*INSIDE, *(name for name in files if "__pycache__" not in name)}
    return sorted(wanted - inside | wanted - packed)


def run(*command: str | Path, cwd: Path) -> str:
    # a path of ours would find the checkout and not what was installed
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def try_wheel(wheel: Path) -> None:
    torch = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert torch is not None
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        venv.create(place / "venv", with_pip=True)
        binaries = place / "venv/bin"
        # torch first and pinned: a plain request can bring gigabytes of another build
        run(binaries / "python", "-m", "pip", "install", "-q", torch[0], cwd=place)
        run(binaries / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=place)
        where = run(binaries / "python", "-c", "import softmix; print(softmix.__file__)", cwd=place).strip()
        if not Path(where).is_relative_to(place):
            raise SystemExit(f"softmix was imported from {where}, and not from the wheel")
        print(run(binaries / "softmix", "--version", cwd=place).strip())
        run(binaries / "softmix", "sample", "fashion", "--n", "4", "--steps", "2", "--out", "a.png", cwd=place)
        if (place / "a.png").read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
            raise SystemExit("softmix sample fashion wrote no PNG")
        print(run(binaries / "python", "-m", "pip", "check", cwd=place).strip())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wheel, sdist = only(folder, "*.whl"), only(folder, "*.tar.gz")
    lost = missing(wheel, sdist)
    if lost:
        raise SystemExit(f"{len(lost)} files are not in the wheel and the sdist: {', '.join(lost[:10])}")
    try_wheel(wheel)
    print(", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in (wheel, sdist)))
