"""How far generated samples are from real ones, in numbers that carry their recipe."""

from .carried import Carried, carried
from .coverage import Coverage, coverage
from .evaluation import Evaluation, Pictures, Row
from .extractor import Features
from .features import classifier_features, image_features, pixel_features, raw_features
from .frechet import Moments, frechet, frechet_error, moments
from .judge import judge, judge_samples
from .kept import Kept, KeptError
from .kernel import KernelDistance, kernel_distance
from .nearest import Memorisation, Nearest, memorisation, nearest
from .points import Modes, energy_distance, histogram_tv, mode_statistics, sliced_wasserstein
from .reference import Reference, features_for
from .report import write_report
from .text import carried_table, said, table

__all__ = [
    "Carried",
    "Coverage",
    "Evaluation",
    "Features",
    "Kept",
    "KeptError",
    "KernelDistance",
    "Memorisation",
    "Modes",
    "Moments",
    "Nearest",
    "Pictures",
    "Reference",
    "Row",
    "carried",
    "carried_table",
    "classifier_features",
    "coverage",
    "energy_distance",
    "features_for",
    "frechet",
    "frechet_error",
    "histogram_tv",
    "image_features",
    "judge",
    "judge_samples",
    "kernel_distance",
    "memorisation",
    "mode_statistics",
    "moments",
    "nearest",
    "pixel_features",
    "raw_features",
    "said",
    "sliced_wasserstein",
    "table",
    "write_report",
]
