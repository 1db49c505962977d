"""What quality bands call clear, and the distance kept from clouds on the ground."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.errors import SettingError
from stages.geo.clear import PRESETS, MaskConfig, Reach, grow, pixel_sides, rule_of
from stages.geo.grid import Grid

UTM = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, 40, 40, 16)


def test_scene_classes_of_sentinel_2():
    classes = np.arange(12, dtype=np.uint8)
    assert np.flatnonzero(PRESETS["sentinel-2-scl"].is_clear(classes)).tolist() == [4, 5, 6]
    assert np.flatnonzero(PRESETS["sentinel-2-scl-snow"].is_clear(classes)).tolist() == [4, 5, 6, 11]
    # No data, defects, shadows of mountains and snow are not clear, but nothing that spreads.
    assert np.flatnonzero(PRESETS["sentinel-2-scl"].is_cloud(classes)).tolist() == [3, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("value", "clear", "snow", "cloud"),
    [
        # Values of the product guide: clear, water, snow, fill, cloud, cloud shadow, high-confidence cirrus, dilated.
        (21824, True, True, False), (21952, True, True, False), (30048, False, True, False), (1, False, False, False),
        (22280, False, False, True), (23888, False, False, True), (54596, False, False, True),
        (21826, False, False, True),
    ],
)  # fmt: skip
def test_bits_of_landsat(value, clear, snow, cloud):
    values = np.array([value], np.uint16)
    assert PRESETS["landsat-c2"].is_clear(values).tolist() == [clear]
    assert PRESETS["landsat-c2-snow"].is_clear(values).tolist() == [snow]
    assert PRESETS["landsat-c2"].is_cloud(values).tolist() == [cloud]


def test_a_list_of_values_spreads_whatever_is_not_clear_unless_told():
    values = np.array([0.0, 1.0, 2.0, 300.0])
    rule = rule_of(MaskConfig(clear=(1, 300)), "mask")
    assert rule.is_clear(values).tolist() == [False, True, False, True]
    assert rule.is_cloud(values).tolist() == [True, False, True, False]
    rule = rule_of(MaskConfig(clear=(1,), cloud=(2,)), "mask")
    assert rule.is_far(values).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("name", "preset"), [("SCL", "sentinel-2-scl"), ("scl_20m", "sentinel-2-scl"),
                                              ("qa_pixel", "landsat-c2")])  # fmt: skip
def test_a_known_name_needs_no_mask_settings(name, preset):
    assert rule_of(None, name) == PRESETS[preset]
    assert rule_of(MaskConfig(dilate=5), name) == PRESETS[preset]
    assert rule_of(MaskConfig(preset="landsat-c2-snow"), name) == PRESETS["landsat-c2-snow"]


def test_what_cannot_be_a_mask():
    assert rule_of(None, "") is None
    with pytest.raises(SettingError, match=r"^tile\.mask needs a quality band, .* name it as ingest\.quality\.$"):
        rule_of(MaskConfig(), "")
    with pytest.raises(SettingError, match=r"^ingest\.quality is fmask, but nothing says which of its values"):
        rule_of(None, "fmask")
    for wrong in ({"clear": (1,), "preset": "landsat-c2"}, {"cloud": (1,)}, {"clear": (1, 2), "cloud": (2,)},
                  {"dilate": -1}, {"clear": ()}):  # fmt: skip
        with pytest.raises(ValidationError):
            MaskConfig.model_validate(wrong)


def test_a_distance_is_the_same_on_the_ground_down_and_across():
    assert pixel_sides(UTM) == pytest.approx((10.0, 10.0), rel=1e-3)
    assert Reach.of(100, UTM).pixels == 10
    assert Reach.of(0, UTM).pixels == 0
    # At 60 degrees north a degree of longitude is half as long as one of latitude.
    north = Grid("EPSG:4326", 0.001, 10.0, 60.02, 40, 40, 16)
    down, across = pixel_sides(north)
    assert (down, across) == pytest.approx((111.4, 55.8), rel=2e-3)
    assert Reach.of(223, north).half == (4, 3, 0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 8.0, 10.0, 25.0, 45.0, 400.0]), st.sampled_from([0.001, 0.01, 0.2])
)
def test_clouds_grow_by_the_euclidean_distance(seed, metres, share):
    cloud = np.random.default_rng(seed).random((23, 31)) < share
    rows, cols = np.nonzero(cloud)
    y, x = np.mgrid[:23, :31]
    distance = np.full(cloud.shape, np.inf)
    for row, col in zip(rows, cols, strict=True):
        distance = np.minimum(distance, np.hypot(y - row, x - col))
    grown = grow(cloud, Reach.of(metres, UTM))
    # A pixel of 10 m of the map is 10.004 m of the ground here, and a twentieth of one is spared.
    assert grown[10.004 * distance <= metres].all()
    assert not grown[10.004 * (distance - 0.05) > metres].any()
