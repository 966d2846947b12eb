"""Boosted regression trees as plain arrays: fitted by scikit-learn, evaluated without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.codec import STRICT
from engine.errors import require
from engine.hardware.calibrated import Matrix

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

TREES = 40
LEAVES = 6
RATE = 0.15
LEAST = 8
"""Rows that a leaf must have."""
LEAF = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A regression tree, node by node from the root.

    Attributes:
        feature: that a node compares; −1 for a leaf.
        threshold: a row goes left where its feature is at most this.
        left, right: the nodes below; always further on than their parent.
        value: of a leaf.
    """

    __pydantic_config__ = STRICT

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        nodes = len(self.feature)
        columns = (self.threshold, self.left, self.right, self.value)
        require(
            nodes > 0 and all(len(column) == nodes for column in columns),
            "a tree must have as many thresholds, children and values as features",
            tuple(map(len, columns)),
        )
        for node, feature in enumerate(self.feature):
            below = (self.left[node], self.right[node])
            require(
                feature == LEAF or all(node < child < nodes for child in below),
                f"the children of node {node} must follow it",
                below,
            )

    def __call__(self, features: Sequence[float]) -> float:
        """Returns the value of the leaf that ``features`` come to."""
        node = 0
        while (feature := self.feature[node]) != LEAF:
            below = self.left if features[feature] <= self.threshold[node] else self.right
            node = below[node]
        return self.value[node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosting:
    """The sum of trees and a constant."""

    __pydantic_config__ = STRICT

    constant: float
    trees: tuple[Tree, ...]
    features: int

    def __post_init__(self) -> None:
        highest = max((max(tree.feature) for tree in self.trees), default=LEAF)
        require(highest < self.features, f"features must exceed {highest}", self.features)

    def __call__(self, features: Sequence[float]) -> float:
        """Returns the prediction for one row."""
        return self.constant + sum([tree(features) for tree in self.trees])


def boost(features: Matrix, targets: Matrix) -> "HistGradientBoostingRegressor":
    """Fits trees whose sum falls with no feature; least squares."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=RATE,
        min_samples_leaf=LEAST,
        monotonic_cst=[1] * features.shape[1],
        early_stopping=False,  # pyright: ignore[reportArgumentType]
        random_state=0,
    )
    return model.fit(features, targets)


def exported(model: "HistGradientBoostingRegressor") -> Boosting:
    """Copies the fitted trees.

    scikit-learn has no public access to them; tests compare the copy with its own predictions.
    """
    trees: list[Tree] = []
    for (predictor,) in model._predictors:  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                feature=tuple(np.where(leaf, LEAF, nodes["feature_idx"]).tolist()),
                threshold=tuple(np.where(leaf, 0.0, nodes["num_threshold"]).tolist()),
                left=tuple(nodes["left"].tolist()),
                right=tuple(nodes["right"].tolist()),
                value=tuple(nodes["value"].tolist()),
            )
        )
    return Boosting(
        constant=float(model._baseline_prediction.item()),  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        trees=tuple(trees),
        features=int(model.n_features_in_),
    )
