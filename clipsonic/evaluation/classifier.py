"""Class accuracy and KL: a linear classifier on embeddings of training sounds, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from clipsonic.errors import DataError
from clipsonic.evaluation.bank import Bank

FLOOR = 1e-6
"""Probabilities are clipped here before the logarithm, as audioldm_eval does."""
REGULARISATION = 0.1
ITERATIONS = 300

Array = NDArray[np.float64]


class Classifier:
    """Multinomial logistic regression on standardised embeddings, every class of equal weight.

    Attributes:
        classes: The things it knows, sorted.
        count: How many training sounds it learnt from.
    """

    def __init__(self, bank: Bank) -> None:
        """Learn from the bank's labelled sounds.

        Raises:
            DataError: The bank knows fewer than two things.
        """
        rows = [row for row, label in enumerate(bank.labels) if label]
        labels = np.array([bank.labels[row] for row in rows])
        if len(set(labels)) < 2:
            raise DataError(f"the training sounds are of {len(set(labels))} things; a classifier needs at least 2")
        estimator = LogisticRegression(C=REGULARISATION, max_iter=ITERATIONS, class_weight="balanced")
        self._model: Pipeline = make_pipeline(StandardScaler(), estimator)
        self._model.fit(bank.embeddings.numpy()[rows].astype(np.float64), labels)
        self.classes = [str(name) for name in self._model.classes_]
        self.count = len(rows)

    def probabilities(self, embeddings: Tensor) -> Array:
        """Return the probability of every class for each sound, shape (sounds, classes).

        Args:
            embeddings: float32, shape (sounds, dim).
        """
        return np.asarray(self._model.predict_proba(embeddings.numpy().astype(np.float64)))

    def hits(self, probabilities: Array, labels: Sequence[str]) -> Array:
        """Return 1.0 for each sound whose likeliest class is its label, else 0.0, shape (sounds,)."""
        return np.array(
            [float(self.classes[k] == label) for k, label in zip(probabilities.argmax(1), labels, strict=True)]
        )


def divergences(real: dict[str, Array], probabilities: Array, labels: Sequence[str]) -> Array:
    """Return the Kullback-Leibler divergence in nats of what the classifier hears in each sound from the real sounds.

    Args:
        real: For each thing the mean probabilities of its held-out real sounds, shape (classes,).
        probabilities: Of the sounds, shape (sounds, classes).
        labels: What each should be of.

    Returns:
        KL(real ‖ sound), shape (sounds,); nan where there is no real sound.
    """
    heard = np.log(probabilities.clip(min=FLOOR))
    values = np.full(len(labels), np.nan)
    for row, label in enumerate(labels):
        if label in real:
            wanted = real[label].clip(min=FLOOR)
            values[row] = float((wanted * (np.log(wanted) - heard[row])).sum())
    return values


def mean_by_label(probabilities: Array, labels: Sequence[str]) -> dict[str, Array]:
    """Return the mean row of each label."""
    own = np.asarray(labels, dtype=object)
    return {str(label): probabilities[own == label].mean(0) for label in sorted(set(labels))}


def left_one_out(probabilities: Array, labels: Sequence[str]) -> Array:
    """Return each real sound's divergence from the other real sounds of its thing; nan where it is the only one."""
    values = np.full(len(labels), np.nan)
    own = np.asarray(labels, dtype=object)
    for row, label in enumerate(labels):
        others = (own == label) & (np.arange(len(own)) != row)
        if others.any():
            real = {label: probabilities[others].mean(0)}
            values[row] = divergences(real, probabilities[row : row + 1], [label])[0]
    return values
