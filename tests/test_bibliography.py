"""Parts name their papers, and `cited` collects them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

import pytest

import softmix
from softmix.bibliography import REFERENCES, Reference, cited
from softmix.loss import WEIGHTS, Consistency, Energy, Square
from softmix.sampler import SAMPLERS, traits
from softmix.train import MODELS, preset


def test_a_bibtex_entry_has_all_fields() -> None:
    made = Reference("ours", "A Title", "Name, First and Other, Second", "ICML", 2030, "3001.00001").bibtex()
    assert made == (
        "@article{ours2030,\n  title = {A Title},\n  author = {Name, First and Other, Second},\n  journal = {ICML},\n"
        "  year = {2030},\n  eprint = {3001.00001},\n  archivePrefix = {arXiv}\n}"
    )
    assert "eprint" not in REFERENCES["scoring_rules"].bibtex()


def test_the_references_have_distinct_names_titles_and_numbers() -> None:
    for field in ("name", "title"):
        values = [getattr(reference, field) for reference in REFERENCES.values()]
        assert len(set(values)) == len(values)
    numbers = [reference.arxiv for reference in REFERENCES.values() if reference.arxiv]
    assert len(set(numbers)) == len(numbers)


@dataclass(frozen=True)
class Whole:
    first: object
    rest: tuple[object, ...] = ()
    cites = ("unet",)


def test_papers_come_once_in_the_order_of_first_use() -> None:
    whole = Whole(Square("v"), (Consistency(), Whole(Energy())))
    assert [reference.name for reference in cited(whole, Square("eps"))] == [
        "unet",
        "progressive_distillation",
        "consistency",
        "improved_consistency",
        "scoring_rules",
        "distributional",
        "ddpm",
    ]


def test_an_unknown_paper_of_a_part_is_an_error() -> None:
    class Unknown:
        cites = ("nowhere",)

    with pytest.raises(KeyError, match="Unknown cites 'nowhere', which is not in the bibliography"):
        cited(Unknown())


def test_a_part_of_ones_own_may_bring_its_paper() -> None:
    own = Reference("ours", "A Title", "Name, First", "ICML", 2030, "")

    class Ours:
        cites = (own, "unet")

    assert cited(Ours()) == [own, REFERENCES["unet"]]


def every_part() -> list[type]:
    """The classes of softmix that name papers."""
    found = set()
    for info in pkgutil.walk_packages(softmix.__path__, "softmix."):
        # the kernels of random numbers need triton, and name no paper
        if any(part in info.name for part in (".hub", ".__main__", "rng.kernels")):
            continue
        module = importlib.import_module(info.name)
        found |= {each for each in vars(module).values() if isinstance(each, type) and "cites" in vars(each)}
    return sorted(found, key=lambda each: each.__name__)


def test_every_name_that_a_part_gives_is_in_the_bibliography() -> None:
    parts = every_part()
    assert len(parts) >= 8
    for part in parts:
        named = part.cites
        assert isinstance(named, property) or set(named) <= set(REFERENCES), part
    for weight in WEIGHTS:
        cited(Square(weight))
    for sampler in SAMPLERS:
        cited(traits(sampler))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("smd", {"smd", "scoring_rules", "improved_ddpm", "unet", "edm2"}),
        ("plain", {"progressive_distillation", "improved_ddpm", "unet", "edm2"}),
        ("mixture", {"gmflow"}),
        ("consistency", {"consistency", "improved_consistency", "score_sde", "edm"}),
        ("meanflow", {"meanflow", "flow_matching"}),
        ("imm", {"imm", "flow_matching"}),
        ("published", {"smd"}),
    ],
)
def test_a_model_cites_the_papers_of_its_parts(model: str, names: set[str]) -> None:
    assert names <= {reference.name for reference in cited(preset(model, (1, 28, 28)))}


def test_no_preset_cites_another_ones_paper() -> None:
    own = {name: {reference.name for reference in cited(preset(name, (1, 28, 28)))} for name in MODELS}
    tokens = {reference.name for reference in cited(preset("masked", (28,)))}
    assert tokens >= {"masked_diffusion", "md4"} and "unet" not in tokens
    assert "smd" not in own["plain"] and "consistency" not in own["smd"]
    assert "gmflow" not in own["smd"] | own["plain"] | own["consistency"]
