"""Fit a polynomial to noisy points by gradient descent. A script that knows nothing of Hyperlax; see curve_fit.yaml."""

import os
import sys

import numpy as np

given = dict(word.split("=") for word in sys.argv[1:])
rate, degree, decay = float(given["rate"]), int(given["degree"]), float(given["decay"])
draw = np.random.default_rng(int(os.environ.get("HYPERLAX_SEED", "0")))
x = draw.uniform(-1, 1, 200)
y = np.sin(3 * x) + draw.normal(0, 0.1, 200)
features, weights = x[:, None] ** np.arange(degree + 1), np.zeros(degree + 1)
for step in range(1, 1001):
    gradient = features[:100].T @ (features[:100] @ weights - y[:100]) / 100
    weights -= rate * (gradient + decay * weights)
    if step % 100 == 0:
        error = np.sqrt(np.mean((features[100:] @ weights - y[100:]) ** 2))
        print(f"hyperlax: step={step} error={error}")
