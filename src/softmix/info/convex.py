"""The convex solver of this room, an extra."""

from __future__ import annotations

from typing import Any


def convex_solver(who: str) -> Any:
    """The package cvxpy. Raises ImportError with a sentence without it. who : what needs it."""
    try:
        import cvxpy
    except ImportError as error:
        raise ImportError(f'{who} needs a convex solver: pip install "softmix[pid]" (cvxpy and clarabel)') from error
    return cvxpy


def solved(cvxpy: Any, problem: Any, who: str) -> float:
    """The optimum of a problem. Raises RuntimeError if there is none."""
    problem.solve(solver=cvxpy.CLARABEL)
    if problem.status not in (cvxpy.OPTIMAL, cvxpy.OPTIMAL_INACCURATE):
        raise RuntimeError(f"the convex program of {who} ended with the status {problem.status}")
    return float(problem.value)
