"""Room `evaluate`: how far generated samples are from real ones, in numbers that carry their recipe."""

from softmix.evaluate.carried import Carried, carried
from softmix.evaluate.coverage import Coverage, coverage
from softmix.evaluate.evaluation import Evaluation, Pictures, Row
from softmix.evaluate.extractor import Features
from softmix.evaluate.features import classifier_features, image_features, pixel_features, raw_features
from softmix.evaluate.frechet import Moments, frechet, frechet_error, moments
from softmix.evaluate.judge import judge, judge_samples
from softmix.evaluate.kept import Kept, KeptError
from softmix.evaluate.kernel import KernelDistance, kernel_distance
from softmix.evaluate.nearest import Memorisation, Nearest, memorisation, nearest
from softmix.evaluate.points import Modes, energy_distance, histogram_tv, mode_statistics, sliced_wasserstein
from softmix.evaluate.reference import Reference, features_for
from softmix.evaluate.report import write_report
from softmix.evaluate.text import carried_table, said, table

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
