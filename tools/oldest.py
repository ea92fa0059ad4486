"""Print the oldest version of every dependency that pyproject.toml allows, as constraints for pip.

torch is left out, because its older builds for x86 bring gigabytes of CUDA. `make oldest` chooses its version.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The extras that the tests need; the others are tools for developers.
EXTRAS = ("report", "diffusers", "photographs", "test")


def oldest(project: dict[str, object]) -> list[str]:
    """Return name==version for each requirement name>=version of the package and of `EXTRAS`."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]  # type: ignore[misc]
    pinned = {}
    for line in wanted:
        if line.startswith(("softmix[", "torch>")):
            continue
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9][^,\s]*)", line)
        if match is None:
            raise SystemExit(f"pyproject.toml says {line!r}, which names no oldest version; write name>=version")
        pinned[match[1]] = match[2]
    return [f"{name}=={version}" for name, version in sorted(pinned.items(), key=lambda pair: pair[0].lower())]


if __name__ == "__main__":
    with (ROOT / "pyproject.toml").open("rb") as file:
        print("\n".join(oldest(tomllib.load(file)["project"])))
