"""The best accuracy under bounds on what predictions tell of a sensitive attribute, for all clients and for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .convex import convex_solver, solved


@dataclass(frozen=True)
class FairAccuracy:
    """The solution of `fair_accuracy`.

    accuracy : P(prediction = Y).
    joint : the joint law of Z, S, Y and the prediction, [Z, S, Y, Y].
    """

    accuracy: float
    joint: Tensor


def fair_accuracy(p: Tensor, global_bits: float, local_bits: float, classifier: Tensor | None = None) -> FairAccuracy:
    """The highest accuracy of any prediction H with bounded disparity over all clients and within each (AGLFOP):

        max P(H = Y)   with   I(Z; H) <= global_bits,   I(Z; H | S) <= local_bits,   p(z, s, y) given

    Z is the sensitive attribute, S the client, Y the label. The program is convex, because p(z, s) is fixed.

    p : p(z, s, y), [Z, S, Y], with sum 1.
    global_bits, local_bits : the bounds, in bits, at least 0.
    classifier : the joint law of Z, S, Y and the outputs of a classifier, [Z, S, Y, Y], with the marginal p. H then
        depends on Z, S and the output alone, so that it is what a change of its outputs in each group can reach.
        Without it H may depend on Y itself: the bound holds for strategies, and says nothing of a model.

    Without bounds that bind, and without a classifier, the accuracy is 1. Raises ValueError for another p, bounds below
    0 and a classifier with another marginal; ImportError without the extra `pid`.
    Source: Hamman & Dutta, "Demystifying local and global fairness trade-offs in federated learning using partial
    information decomposition", ICLR 2024.
    When to choose: as the upper bound beside the accuracy and disparities of a trained federated classifier.
    """
    whole = _law(p, classifier)
    if not (global_bits >= 0 and local_bits >= 0):
        raise ValueError(f"the bounds are at least 0 bits; found {global_bits} and {local_bits}")
    cvxpy = convex_solver("fair_accuracy")
    groups, clients, labels = p.shape
    known = p.double().cpu().numpy()
    cells = [(z, s, y) for z in range(groups) for s in range(clients) for y in range(labels)]
    limits: list[Any] = []
    if whole is None:
        # r(z, s, y, h) for each cell
        r: dict[tuple[int, int, int], Any] = {cell: cvxpy.Variable(labels, nonneg=True) for cell in cells}
        limits += [cvxpy.sum(r[cell]) == known[cell] for cell in cells]
    else:
        # q(h | z, s, output)
        outputs = whole.cpu().numpy()
        change = {(z, s): cvxpy.Variable((labels, labels), nonneg=True) for z in range(groups) for s in range(clients)}
        limits += [cvxpy.sum(each, axis=1) == 1 for each in change.values()]
        r = {(z, s, y): outputs[z, s, y] @ change[z, s] for z, s, y in cells}
    of_group = {(z, s): sum(r[z, s, y] for y in range(labels)) for z in range(groups) for s in range(clients)}
    over_clients = [sum(of_group[z, s] for s in range(clients)) for z in range(groups)]
    shares, share_of = known.sum((1, 2)), known.sum(2)
    all_groups = sum(over_clients)
    # each pair: a law of H in a group, and the same law without the group, which the bound keeps near each other
    far = [(over_clients[z], shares[z] * all_groups) for z in range(groups) if shares[z] > 0]
    near = []
    for s in range(clients):
        client = share_of[:, s].sum()
        inside = sum(of_group[z, s] for z in range(groups))
        near += [(of_group[z, s], share_of[z, s] / client * inside) for z in range(groups) if share_of[z, s] > 0]
    limits += _bounded(cvxpy, far, global_bits) + _bounded(cvxpy, near, local_bits)
    right = sum(r[z, s, y][y] for z, s, y in cells)
    accuracy = solved(cvxpy, cvxpy.Problem(cvxpy.Maximize(right), limits), "fair_accuracy")
    found = [[[r[z, s, y] for y in range(labels)] for s in range(clients)] for z in range(groups)]
    values = [[[each.value.tolist() for each in client] for client in group] for group in found]
    return FairAccuracy(accuracy, torch.tensor(values, dtype=torch.float64, device=p.device))


def _bounded(cvxpy: Any, pairs: list[tuple[Any, Any]], bits: float) -> list[Any]:
    """sum KL(own || common) <= bits. With 0 bits the two are equal, which is linear and has an exact solution."""
    if bits == 0:
        return [own == common for own, common in pairs]
    return [sum(cvxpy.sum(cvxpy.rel_entr(own, common)) for own, common in pairs) <= math.log(2) * bits]


def disparities(joint: Tensor) -> tuple[float, float]:
    """I(Z; H) and I(Z; H | S) of a joint law [Z, S, Y, H], in bits: the global and the local disparity.

    Their difference is redundant less synergistic information of (H, S) on Z, in every decomposition.
    """
    whole = joint.double().sum(2)
    local = torch.zeros((), dtype=torch.float64, device=joint.device)
    for client in whole.unbind(1):
        weight = client.sum()
        if float(weight) > 0:
            local = local + weight * _bits(client / weight)
    return float(_bits(whole.sum(1))), float(local)


def _bits(p: Tensor) -> Tensor:
    """I of a joint law [A, B], in bits."""
    product = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    return torch.special.xlogy(p, torch.where(p > 0, p / product, 1.0)).sum() / math.log(2)


def _law(p: Tensor, classifier: Tensor | None) -> Tensor | None:
    """The law of the classifier, checked with p."""
    if p.ndim != 3 or bool((p < 0).any()) or abs(float(p.double().sum()) - 1) > 1e-6:
        raise ValueError(f"probabilities p(z, s, y) with sum 1 were expected; found {list(p.shape)}, {float(p.sum())}")
    if not bool((p.sum((0, 2)) > 0).all()):
        raise ValueError("a client without any probability was given; leave it out")
    if classifier is None:
        return None
    if classifier.shape != (*p.shape, p.shape[2]) or float((classifier.sum(3) - p).abs().max()) > 1e-6:
        raise ValueError(
            f"the law of the classifier has shape {list(classifier.shape)} or another marginal than p: give p(z, s, y) "
            "times the share of each output"
        )
    return classifier.double()
