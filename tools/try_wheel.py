"""Install the wheel of a folder in a clean environment and use it: python tools/try_wheel.py dist

The environment is in a temporary folder, and this checkout is not on its path. The package is imported,
`softmix --version` runs, and the shipped model is sampled into a PNG. All this must work without the extra `report`.
"""

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
# These files have to be in both archives, besides the code.
INSIDE = ("softmix/py.typed", "softmix/evaluate/report.html.j2", "softmix/shipped/fashion/config.json")


def only(folder: Path, pattern: str) -> Path:
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        raise SystemExit(f"{folder} must hold one {pattern}, and holds {len(paths)}; run `make package`")
    return paths[0].resolve()


def missing(wheel: Path, sdist: Path) -> list[str]:
    """The files of the package in the checkout that one of the two archives lacks."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/src/")[2] for name in archive.getnames()}
    files = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/softmix").rglob("*") if path.is_file()}
    wanted = {*INSIDE, *(name for name in files if "__pycache__" not in name)}
    return sorted(wanted - inside | wanted - packed)


def run(*command: str | Path, cwd: Path) -> str:
    # With PYTHONPATH the checkout would be imported and not the wheel.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def try_wheel(wheel: Path) -> None:
    torch = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert torch is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        binaries = folder / "venv/bin"
        # torch first and pinned: a plain request can bring gigabytes of another build
        run(binaries / "python", "-m", "pip", "install", "-q", torch[0], cwd=folder)
        run(binaries / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
        origin = run(binaries / "python", "-c", "import softmix; print(softmix.__file__)", cwd=folder).strip()
        if not Path(origin).is_relative_to(folder):
            raise SystemExit(f"softmix was imported from {origin}, and not from the wheel")
        print(run(binaries / "softmix", "--version", cwd=folder).strip())
        run(binaries / "softmix", "sample", "fashion", "--n", "4", "--steps", "2", "--out", "a.png", cwd=folder)
        if (folder / "a.png").read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
            raise SystemExit("softmix sample fashion wrote no PNG")
        print(run(binaries / "python", "-m", "pip", "check", cwd=folder).strip())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wheel, sdist = only(folder, "*.whl"), only(folder, "*.tar.gz")
    lost = missing(wheel, sdist)
    if lost:
        raise SystemExit(f"{len(lost)} files are not in the wheel and the sdist: {', '.join(lost[:10])}")
    try_wheel(wheel)
    print(", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in (wheel, sdist)))
