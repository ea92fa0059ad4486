"""This room measures the distance between generated samples and held-out data.

Its main parts are the distances (`frechet`, `kernel_distance`, `coverage`, `memorisation`, `sliced_wasserstein`),
the feature extractors (`features_for`), the evaluation of a model (`evaluate_model`) and of given samples
(`evaluate_samples`), and the report (`write_report`).
"""

from .calibration import Calibration, calibration, crps
from .coverage import Coverage, coverage
from .evaluation import Evaluation, EvaluationRow, Pictures
from .evaluator import evaluate_model, evaluate_samples
from .extractor import Features
from .features import classifier_features, image_features, pixel_features, raw_features
from .frechet import Moments, frechet, frechet_error, moments
from .kernel import KernelDistance, kernel_distance
from .nearest import Memorisation, Nearest, memorisation, nearest
from .points import Modes, energy_distance, histogram_tv, mode_statistics, sliced_wasserstein
from .reference import ReferenceSet, features_for
from .report import write_report
from .saved_rows import SavedRows, SavedRowsError
from .spread import LatentSpread, latent_spread
from .text import row_line, spread_table, table

__all__ = [
    "Calibration",
    "Coverage",
    "Evaluation",
    "EvaluationRow",
    "Features",
    "KernelDistance",
    "LatentSpread",
    "Memorisation",
    "Modes",
    "Moments",
    "Nearest",
    "Pictures",
    "ReferenceSet",
    "SavedRows",
    "SavedRowsError",
    "calibration",
    "classifier_features",
    "coverage",
    "crps",
    "energy_distance",
    "evaluate_model",
    "evaluate_samples",
    "features_for",
    "frechet",
    "frechet_error",
    "histogram_tv",
    "image_features",
    "kernel_distance",
    "latent_spread",
    "memorisation",
    "mode_statistics",
    "moments",
    "nearest",
    "pixel_features",
    "raw_features",
    "row_line",
    "sliced_wasserstein",
    "spread_table",
    "table",
    "write_report",
]
