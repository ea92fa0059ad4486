"""A Bayesian logistic regression as a target density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .target import Target

RegressionData = Literal["breast-cancer", "iris"]


def regression_data(data: RegressionData = "breast-cancer") -> tuple[Tensor, Tensor]:
    """Features with mean 0 and standard deviation 1 after a column of ones, float64 [N, 1 + D]; and labels 0 or 1, [N].

    breast-cancer : 569 tumours with 30 features; 1 is benign.
    iris : 100 flowers with 4 features, versicolor (0) and virginica (1).

    Source: scikit-learn. Wolberg, Mangasarian, Street & Street, "Breast cancer Wisconsin (diagnostic)", UCI, 1995;
    Fisher, "Iris", UCI, 1936.
    """
    # a local import: scikit-learn takes a second
    from sklearn.datasets import load_breast_cancer, load_iris  # type: ignore[import-untyped]

    raw = load_breast_cancer() if data == "breast-cancer" else load_iris()
    x, labels = torch.from_numpy(raw.data).double(), torch.from_numpy(raw.target).double()
    if data == "iris":
        x, labels = x[labels > 0], labels[labels > 0] - 1
    x = (x - x.mean(0)) / x.std(0, correction=0)
    return torch.cat([x.new_ones(len(x), 1), x], 1), labels


def logistic_density(data: RegressionData = "breast-cancer") -> Callable[[Tensor], Tensor]:
    """w [B, 1 + D] -> log N(w; 0, I) + sum_i log p(y_i | w), p(y = 1 | w) = 1 / (1 + exp(-a_i . w)), [B]."""
    rows, labels = regression_data(data)
    # log p(y | w) = logsigmoid(+- a . w)
    signed = (2 * labels - 1)[:, None] * rows
    constant = signed.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))

    def log_density(w: Tensor) -> Tensor:
        likelihood = functional.logsigmoid(w @ signed.to(w).mT).sum(1)
        return likelihood - w.square().sum(1) / 2 - float(constant) / 2

    return log_density


def logistic_regression(data: RegressionData = "breast-cancer") -> Target:
    """The posterior of the weights of a logistic regression, with the prior N(0, I): Z is the evidence of the labels.

        gamma(w) = N(w; 0, I) prod_i p(y_i | w)

    data : see `regression_data`. The dimensions are 1 + D.

    When to choose: as a target with one mode, strong correlations, and real numbers.
    """
    rows, _ = regression_data(data)
    return Target((rows.shape[1],), logistic_density(data), f"logistic regression on {data}")
