"""Pad, crop and flip: new pictures out of those there are. Numpy alone, on the thread that asks."""

from typing import Any

import numpy as np


def shifted_and_flipped(images: np.ndarray, *, margin: int, seed: int, step: int) -> np.ndarray:
    """Each image moved by up to `margin` pixels along both axes, with zeros where it leaves a gap, and every second
    one mirrored. The seed and the step decide about it and nothing else, so a resumed run sees what it would have seen.

    Args:
        images: [images, height, width, channels].
    """
    count, height, width, _ = images.shape
    random = np.random.default_rng((seed, step))
    corners: Any = random.integers(0, 2 * margin + 1, (2, count)).T.tolist()
    mirrored: Any = random.integers(0, 2, count).tolist()
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    changed = np.empty_like(images)
    for image, ((top, left), flip) in enumerate(zip(corners, mirrored, strict=True)):  # faster than one gather for all
        changed[image] = padded[image, top : top + height, left : left + width][:, :: -1 if flip else 1]
    return changed
