"""Pictures shifted and mirrored, against a loop over them."""

import numpy as np

from trainers.data.augment import shifted_and_flipped

IMAGES = np.random.default_rng(0).integers(1, 256, (200, 6, 5, 3), dtype=np.uint8)


def cuts(image: np.ndarray, margin: int) -> dict[bytes, tuple[int, int, bool]]:
    """All that can become of one image."""
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    height, width, _ = image.shape
    found = {}
    for top, left in np.ndindex(2 * margin + 1, 2 * margin + 1):
        cut = padded[top : top + height, left : left + width]
        found[cut.tobytes()] = (top, left, False)
        found[cut[:, ::-1].tobytes()] = (top, left, True)
    return found


def test_each_picture_is_shifted_and_mirrored_in_one_of_all_ways() -> None:
    changed = shifted_and_flipped(IMAGES, margin=2, seed=0, step=0)
    assert changed.shape == IMAGES.shape and changed.dtype == np.uint8
    ways = [cuts(image, 2)[new.tobytes()] for image, new in zip(IMAGES, changed, strict=True)]
    tops, lefts, mirrored = (np.bincount(np.array(part, dtype=int)) for part in zip(*ways, strict=True))
    assert len(tops) == len(lefts) == 5 and len(mirrored) == 2
    assert min(tops) > 20 and min(lefts) > 20 and min(mirrored) > 70  # expected: 40, 40, 100


def test_the_seed_and_the_step_decide_and_nothing_else() -> None:
    first = shifted_and_flipped(IMAGES, margin=2, seed=1, step=7)
    assert np.array_equal(shifted_and_flipped(IMAGES, margin=2, seed=1, step=7), first)
    assert not np.array_equal(shifted_and_flipped(IMAGES, margin=2, seed=1, step=8), first)
    assert not np.array_equal(shifted_and_flipped(IMAGES, margin=2, seed=2, step=7), first)


def test_without_a_margin_a_picture_is_only_mirrored() -> None:
    for image, new in zip(IMAGES, shifted_and_flipped(IMAGES, margin=0, seed=0, step=0), strict=True):
        assert np.array_equal(new, image) or np.array_equal(new, image[:, ::-1])
