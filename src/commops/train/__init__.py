"""Data-parallel training: a model on every rank, its gradients averaged by one allreduce a step.

Names are imported when they are first used, because the models and losses need the packages of
``pip install 'commops[train]'`` and the trainer does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commops.train.data import Batches, Split, share, standardised_split
    from commops.train.flat import Layout
    from commops.train.losses import softmax_cross_entropy, squared_error
    from commops.train.models import init_mlp, mlp, sigmoid
    from commops.train.optimizers import SGD, Adam, Optimizer
    from commops.train.trainer import LossAndGrad, Trainer

__all__ = [
    "SGD",
    "Adam",
    "Batches",
    "Layout",
    "LossAndGrad",
    "Optimizer",
    "Split",
    "Trainer",
    "init_mlp",
    "mlp",
    "share",
    "sigmoid",
    "softmax_cross_entropy",
    "squared_error",
    "standardised_split",
]

_HOMES = {
    "data": ("Batches", "Split", "share", "standardised_split"),
    "flat": ("Layout",),
    "losses": ("softmax_cross_entropy", "squared_error"),
    "models": ("init_mlp", "mlp", "sigmoid"),
    "optimizers": ("SGD", "Adam", "Optimizer"),
    "trainer": ("LossAndGrad", "Trainer"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            if home in ("losses", "models"):
                from commops.train.extras import require

                require()
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
