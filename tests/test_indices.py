"""Spectral indices by name: worked values, the bands they find, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from stages.errors import SettingError
from stages.geo.indices import LIMIT, compute, find_indices

BANDS = ("blue", "green", "red", "nir")


def computed(names, values, bands=BANDS, given=None):
    """Compute indices of one pixel."""
    indices = find_indices(names, bands, given or {})
    out = np.empty((len(names), 1), np.float32)
    compute(indices, np.array(values, np.float32)[:, None], out)
    return out[:, 0].tolist()


def test_worked_values():
    found = computed(["NDVI", "NDWI", "EVI"], [0.05, 0.08, 0.1, 0.4])
    # (0.4 - 0.1) / 0.5; (0.08 - 0.4) / 0.48; 2.5 * 0.3 / (0.4 + 0.6 - 0.375 + 1)
    assert found == pytest.approx([0.6, -2 / 3, 0.75 / 1.625], rel=1e-5)


def test_bands_are_found_by_their_common_names_or_as_told():
    assert computed(["NDVI"], [0.1, 0.4], ("Red", "NIR")) == pytest.approx([0.6])
    assert computed(["NDVI"], [0.1, 0.4], ("B4", "B8"), {"R": "B4", "N": "B8"}) == pytest.approx([0.6])
    # nir before nir08, which is taken where there is no other.
    assert computed(["NDVI"], [0.1, 0.3, 0.4], ("red", "nir08", "nir")) == pytest.approx([0.6])
    assert computed(["NDVI"], [0.1, 0.3], ("red", "nir08")) == pytest.approx([0.5])
    assert computed(["NBR", "NDMI"], [0.3, 0.1, 0.2], ("nir", "swir2", "swir16")) == pytest.approx([0.5, 0.2])
    # (0.5 - 0.2) / 0.7; (0.4 - 0.1) / (0.2 / 0.3)
    edges = ("red", "rededge1", "rededge2", "rededge3", "nir")
    assert computed(["NDREI", "IRECI"], [0.1, 0.2, 0.3, 0.4, 0.5], edges) == pytest.approx([3 / 7, 0.45])


def test_what_is_no_number_is_nought_and_nothing_is_infinite():
    assert computed(["NDVI"], [0, 0, 0, 0]) == [0.0]
    assert computed(["NDVI"], [0, 0, -0.2, 0.2]) == [LIMIT]
    assert computed(["NDVI"], [0, 0, -0.2, 0.2001]) == [LIMIT]
    assert computed(["NDVI"], [0, 0, 0.2, -0.2]) == [-LIMIT]


@pytest.mark.parametrize(
    ("names", "bands", "given", "words"),
    [
        (["NDVJ"], BANDS, {}, r"names NDVJ, which is no index of the library spyndex \(did you mean NDVI"),
        (["NBR"], BANDS, {}, r"^NBR needs the band swir22 \(S2\), but the bands are blue, green, red, nir; say which"),
        (["NDVI"], BANDS, {"N": "B8"}, r"^tile\.index_bands takes band B8 for N, but the bands are"),
        (["kNDVI"], BANDS, {}, "kNDVI needs kNN, which is neither"), (["NDVI", "NDVI"], BANDS, {}, "already"),
        (["NDVI"], (*BANDS, "NDVI"), {}, "there is such a band already"),
    ],
)  # fmt: skip
def test_indices_that_cannot_be_computed(names, bands, given, words):
    with pytest.raises(SettingError, match=words):
        find_indices(names, bands, given)
