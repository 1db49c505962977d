"""Windows, weights, the accumulator and the predictor."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve

from stages.errors import ModelError
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX
from stages.inference.blend import SCALE, UNITS, Blender, Layout, Shape, starts, weights
from stages.inference.fit import check_fit, check_values
from stages.inference.layers import top_class
from stages.inference.predictor import Predictor, load
from stages.inference.stream import Streaming, blocks_of, finished, layout_of, stream_of
from tests.networks import card_of, softmax, write_graph, write_network, write_tiles, write_window_mean

RNG = np.random.default_rng(7)
axes = st.tuples(st.integers(1, 400), st.integers(1, 64), st.integers(0, 32), st.sampled_from([1, 2, 4, 8]))


@given(axes)
def test_windows_cover_an_axis_and_overlap_enough(axis: tuple[int, int, int, int]) -> None:
    length, side, overlap, stride = axis
    side, overlap = side * stride, min(overlap, side * stride // 2)
    begins = starts(length, side, overlap, stride)
    assert begins[0] == 0
    assert all(begin % stride == 0 for begin in begins)
    gaps = np.diff(begins)
    assert (gaps > 0).all()
    assert (gaps <= max(side - overlap, stride)).all()
    assert length <= begins[-1] + side
    assert begins[-1] < length
    if len(begins) > 1:
        assert begins[-1] + side - gaps[0] < length  # no window but for what its neighbour sees, too
    if not overlap:
        assert (gaps == side).all()  # no pixel is predicted twice


@given(axes, st.sampled_from(["spline", "gaussian"]))
def test_weights_sum_to_one_over_every_pixel(axis: tuple[int, int, int, int], shape: Shape) -> None:
    length, side, overlap, stride = axis
    side = side * stride
    begins = starts(length, side, min(overlap, side // 2), stride)
    total = np.zeros(begins[-1] + side, np.int64)
    for begin, share in zip(begins, weights(begins, side, overlap, length, shape), strict=True):
        assert share.max() <= UNITS
        total[begin : begin + side] += share
    assert (total[:length] == UNITS).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    # Four shared pixels, of which the second window's share at t = 1/8, 3/8, 5/8 and 7/8 is, by the spline
    # 3 t^2 - 2 t^3, 2.75, 20.25, 43.75 and 61.25 of 64, and by the Gaussian exp(-4.5 (1 - t)^2) over both 2, 18 ...
    [("spline", [3, 20, 44, 61]), ("gaussian", [2, 16, 48, 62])],
)
def test_weights_rise_smoothly_over_the_overlap(shape: Shape, expected: list[int]) -> None:
    first, second = weights((0, 12), 16, 4, 28, shape)
    assert np.abs(second[:4].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(first[12:] + second[:4], UNITS)
    assert (first[:12] == UNITS).all()


grids = st.tuples(st.integers(1, 300), st.integers(1, 200), st.integers(4, 40), st.sampled_from([1, 4]))


@settings(deadline=None)
@given(grids, st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_blocks_partition_the_grid(grid: tuple[int, int, int, int], rows: int, cols: int, overlapping: bool) -> None:
    height, width, side, stride = grid
    layout = Layout(height, width, side, side // 4 if overlapping else 0, stride, 0)
    covered = np.zeros((height, width), int)
    for block in layout.blocks(rows, cols):
        covered[block.window.slices] += 1
        bottom, right = block.window.row + block.window.height, block.window.col + block.window.width
        down, across = layout.touching(block)
        reaching = {
            i for i, row in enumerate(layout.rows) if row < bottom and row + layout.rows_high > block.window.row
        }
        beside = {i for i, col in enumerate(layout.cols) if col < right and col + layout.cols_wide > block.window.col}
        # Every window that reaches into the block is predicted for it.
        assert reaching <= set(down)
        assert beside <= set(across)
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("count", "workers", "expected"),
    # 23 rows on two workers: 12 and 11, of which the second does one more than its own. Too many for one task: 16.
    [(23, 2, [12, 11]), (5, 2, [3, 2]), (2, 2, [2]), (1, 8, [1]), (20, 1, [10, 10])],
)
def test_blocks_are_as_high_as_the_workers_allow(count: int, workers: int, expected: list[int]) -> None:
    layout = Layout(32 + 24 * (count - 1), 32, 32, 8, 1, 0)
    assert len(layout.rows) == count
    assert [len(block.rows) for block in blocks_of(layout, Streaming(), workers)] == expected
    by_config = blocks_of(layout, Streaming(rows=2), workers)
    assert len(by_config) == -(-count // 2)


def test_a_wide_grid_is_cut_into_blocks_beside_one_another() -> None:
    layout = Layout(1000, 100_000, 512, 0, 1, 0)
    assert max(block.window.width for block in blocks_of(layout, Streaming(), 2)) == 4096


def test_two_windows_are_blended_by_hand() -> None:
    layout = Layout(height=4, width=6, side=4, overlap=2, stride=1, halo=0)
    assert layout.cols == (0, 2)
    (block,) = layout.blocks(1, 2)
    held = Blender(2, layout, block)
    says = np.zeros((2, 2, 4, 4), np.float32)
    says[0, 0] = says[1, 1] = 1.0  # the left window is sure of class 0, the right one of class 1
    first, second = held.add(0, 0, says[0]), held.add(0, 1, says[1])
    assert first is not None
    assert second is not None
    assert (first[0].width, second[0].col, second[0].width) == (2, 2, 4)
    found = np.concatenate([first[1], second[1]], axis=2)
    # By the spline at t = 1/4 and 3/4: 10/64 and 54/64 of the second window.
    np.testing.assert_allclose(found[0, 0], [1, 1, 54 / 64, 10 / 64, 0, 0], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(grids, st.integers(0, 20), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_blending_is_the_weighted_mean_of_all_windows_however_it_is_divided(
    grid: tuple[int, int, int, int], overlap: int, rows: int, cols: int, silent: int
) -> None:
    height, width, side, stride = grid
    layout = Layout(height // 3 + 1, width // 3 + 1, side, min(overlap, side // 2), stride, 0)
    rng = np.random.default_rng(height)
    windows = [(row, col) for row in range(len(layout.rows)) for col in range(len(layout.cols))]
    shape = layout.rows_high, layout.cols_wide
    says = {window: rng.dirichlet(np.ones(3), shape).transpose(2, 0, 1).astype(np.float32) for window in windows}
    says[windows[silent % len(windows)]] = np.zeros((3, *shape), np.float32)
    whole = np.zeros((3, height // 3 + 1 + side + stride, width // 3 + 1 + side + stride))
    for (row, col), likely in says.items():
        share = np.outer(layout.row_weights[row], layout.col_weights[col])
        place = (
            slice(layout.rows[row], layout.rows[row] + shape[0]),
            slice(layout.cols[col], layout.cols[col] + shape[1]),
        )
        whole[:, *place] += np.rint(likely * np.float32(SCALE)) * share
    expected = whole[:, : layout.height, : layout.width] / (SCALE * UNITS * UNITS)
    found = np.zeros_like(expected)
    for block in layout.blocks(rows, cols):
        held = Blender(3, layout, block)
        down, across = layout.touching(block)
        for row in down:
            for col in across:
                likely = says[row, col]
                piece = held.add(row, col, likely if likely.any() else None)
                if piece is not None:
                    assert not found[:, *piece[0].slices].any(), "a pixel is finished once"
                    found[:, *piece[0].slices] = piece[1]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_tie_goes_to_the_lowest_class() -> None:
    index, best = top_class(np.array([[1, 5, 2], [3, 5, 2], [3, 4, 2], [2, 1, 3]], np.float32))
    np.testing.assert_array_equal(index, [1, 0, 3])
    np.testing.assert_array_equal(best, [3, 5, 3])


def test_probabilities_are_the_softmax_of_logits_over_temperature(tmp_path: Path) -> None:
    kernel = np.array([[1.0, 0.5], [-1.0, 2.0], [0.0, 0.0]]).reshape(3, 2, 1, 1)
    folder = write_network(tmp_path / "m", kernel, bias=(0.0, 1.0, -1.0), temperature=2.0)
    image = RNG.normal(size=(2, 2, 5, 7)).astype(np.float32)
    valid = RNG.random((2, 1, 5, 7)) < 0.8
    image = np.where(valid, image, np.float32(0))
    logits = np.einsum("kc,ncyx->nkyx", kernel[..., 0, 0], image) + np.array([0.0, 1.0, -1.0]).reshape(1, 3, 1, 1)
    found = load(folder).probabilities(image, valid)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits / 2.0) * valid, atol=1e-6)


def test_images_are_padded_to_the_stride_and_cropped(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Resize", ["pooled", "", "scales"], ["up"], mode="nearest"),
        helper.make_node("Mul", ["up", "signs"], ["logits"]),
    ]
    constants = {"scales": np.array([1, 1, 4, 4]), "signs": np.array([1.0, -1.0]).reshape(1, 2, 1, 1)}
    folder = write_graph(tmp_path / "m", nodes, constants, card_of(2, 1, stride=4, margin=3))
    found = load(folder).probabilities(np.ones((1, 1, 6, 5), np.float32), np.ones((1, 1, 6, 5), bool))
    assert found.shape == (1, 2, 6, 5)
    # The upper left cell is full of ones, the lower right one holds 2 x 1 of 4 x 4 pixels.
    np.testing.assert_allclose(found[0, 0, 0, 0], 1 / (1 + np.exp(-2.0)), rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, 5, 4], 1 / (1 + np.exp(-2.0 * 2 / 16)), rtol=1e-6)


def test_test_time_averaging_turns_with_the_image(tmp_path: Path) -> None:
    kernel = RNG.normal(size=(3, 2, 3, 3))
    image = RNG.normal(size=(1, 2, 6, 9)).astype(np.float32)
    valid = np.ones((1, 1, 6, 9), bool)
    plain = load(write_network(tmp_path / "plain", kernel))
    averaged = load(write_network(tmp_path / "tta", kernel, tta=True))
    turned = np.ascontiguousarray(np.rot90(image, axes=(2, 3)))
    turned_valid = np.ascontiguousarray(np.rot90(valid, axes=(2, 3)))
    straight = np.rot90(averaged.probabilities(image, valid), axes=(2, 3))
    np.testing.assert_allclose(averaged.probabilities(turned, turned_valid), straight, atol=1e-6)
    # One convolution does not turn with its image, so the law above is the averaging's merit.
    untouched = np.rot90(plain.probabilities(image, valid), axes=(2, 3))
    assert np.abs(plain.probabilities(turned, turned_valid) - untouched).max() > 0.1
    mirrored = averaged.probabilities(np.ascontiguousarray(image[..., ::-1]), valid)
    np.testing.assert_allclose(mirrored[..., ::-1], averaged.probabilities(image, valid), atol=1e-6)


def test_a_model_is_loaded_once_until_its_file_changes(tmp_path: Path) -> None:
    folder = write_network(tmp_path / "m", np.ones((2, 1, 1, 1)))
    first = load(folder)
    assert load(folder) is first
    write_network(folder, np.zeros((2, 1, 1, 1)), bias=(0.0, 5.0))
    assert load(folder) is not first
    found = load(folder).probabilities(np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), bool))
    assert found[0, 1, 0, 0] > 0.99


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channels": ("red", "blue")}, "blue missing"),
        ({"channels": ("nir", "red")}, "in the order nir, red"),
        ({"scaling": "scaled"}, "trained on scaled values, but the tiles hold digital numbers"),
        ({"metres": 20.0}, "pixels of 20 m, but those of the tiles measure 10"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    tiles = write_tiles(tmp_path / "tiles", np.ones((3, 8, 8)))
    check_fit(card_of(2, 2), tiles)  # two of the three bands, in order: fine
    with pytest.raises(ModelError, match=sentence) as caught:
        check_fit(card_of(2, 2, **change), tiles)
    assert "\n" not in str(caught.value)


def test_values_on_another_scale_are_refused(tmp_path: Path) -> None:
    reflectance = np.random.default_rng(0).uniform(0.02, 0.4, (2, 64, 64))
    learnt = {"values": ((0.02, 0.2, 0.4), (0.02, 0.2, 0.4))}
    numbers = np.stack([reflectance[0], 10_000 * reflectance[1]])
    check_values(card_of(2, 2, **learnt), write_tiles(tmp_path / "alike", reflectance))
    check_values(card_of(2, 2), write_tiles(tmp_path / "unknown", numbers))
    with pytest.raises(ModelError, match=r"nir runs from 250.* but model tiny learnt from 0.02 to 0.4"):
        check_values(card_of(2, 2, **learnt), write_tiles(tmp_path / "numbers", numbers))
    with pytest.raises(ModelError, match="scaled otherwise"):
        check_values(card_of(2, 2, **learnt), write_tiles(tmp_path / "tiny", reflectance / 10_000))


def test_pixels_are_compared_on_the_ground(tmp_path: Path) -> None:
    # 10 units of Web Mercator measure 6.6 m at 49 degrees north.
    tiles = write_tiles(tmp_path / "tiles", np.ones((2, 8, 8)), crs="EPSG:3857", left=1e6, top=6_274_861.0)
    with pytest.raises(ModelError, match=r"trained on pixels of 10 m, but those of the tiles measure 6\.5"):
        check_fit(card_of(2, 2), tiles)


def test_broken_models_are_refused(tmp_path: Path) -> None:
    folder = write_network(tmp_path / "cut", np.ones((2, 1, 1, 1)))
    (folder / ONNX).write_bytes((folder / ONNX).read_bytes()[:40])
    with pytest.raises(ModelError, match="cannot be read as a network"):
        load(folder)
    image, valid = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), bool)
    other = write_network(tmp_path / "other", np.ones((2, 1, 1, 1)), classes=card_of(3, 1).classes)
    with pytest.raises(ModelError, match="logits of shape"):
        load(other).probabilities(image, valid)
    wild = write_network(tmp_path / "wild", np.full((2, 1, 1, 1), np.nan))
    with pytest.raises(ModelError, match="not finite"), np.errstate(invalid="ignore"):
        load(wild).probabilities(image, valid)


def _map(folder: Path, tiles: Path, config: Streaming) -> np.ndarray:
    """Predict a whole grid: probabilities (K, y, x), 0 where none."""
    stream = stream_of(Tiles(tiles), folder, config)
    found = np.zeros((len(load(folder).card.classes), *stream.tiles.grid.shape), np.float32)
    for block in blocks_of(stream.layout, config):
        for window, likely in finished(stream, block):
            assert not found[:, *window.slices].any()
            found[:, *window.slices] = likely
    return found


@pytest.fixture(scope="module")
def pixel_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A 1x1 model and a 70 x 93 scene with holes: folders, the image's direct probabilities, and validity."""
    root = tmp_path_factory.mktemp("pixel")
    image = RNG.normal(size=(2, 70, 93)).astype(np.float32)
    valid = RNG.random((70, 93)) < 0.9
    write_tiles(root / "tiles", image, valid, side=32)
    folder = write_network(root / "model", RNG.normal(size=(4, 2, 1, 1)))
    direct = load(folder).probabilities(np.where(valid, image, np.float32(0))[None], valid[None, None])[0]
    return root / "tiles", folder, direct, valid


@settings(max_examples=20, deadline=None)
@given(st.integers(16, 120), st.integers(0, 60), st.integers(1, 9), st.integers(1, 4))
def test_a_pixel_model_is_mapped_exactly_whatever_the_windows(
    pixel_world: tuple[Path, Path, np.ndarray, np.ndarray], window: int, overlap: int, batch: int, rows: int
) -> None:
    tiles, folder, direct, valid = pixel_world
    config = Streaming(window=window, overlap=min(overlap, window // 2), batch=batch, rows=rows)
    found = _map(folder, tiles, config)
    np.testing.assert_array_equal(found.any(axis=0), valid)
    np.testing.assert_allclose(found, direct, atol=1e-6)


def test_a_model_with_context_is_mapped_without_seams(tmp_path: Path) -> None:
    image = RNG.normal(size=(2, 90, 75)).astype(np.float32)
    kernel = RNG.normal(size=(3, 2, 7, 7)) / 7
    write_tiles(tmp_path / "tiles", image, side=32)
    folder = write_network(tmp_path / "model", kernel)
    logits = [
        sum(convolve(image[c].astype(float), kernel[k, c, ::-1, ::-1], mode="constant") for c in range(2))
        for k in range(3)
    ]
    for overlap in ("auto", 4):
        found = _map(folder, tmp_path / "tiles", Streaming(window=24, overlap=overlap, batch=3, rows=2))
        np.testing.assert_allclose(found, softmax(np.stack(logits)[None])[0], atol=3e-6)


def test_where_windows_disagree_the_map_changes_gradually(tmp_path: Path) -> None:
    overlap = 32
    image = np.repeat(np.linspace(-30, 30, 400)[None, None], 80, axis=1).astype(np.float32)
    write_tiles(tmp_path / "tiles", image, side=64)
    folder = write_window_mean(tmp_path / "model", 2, 1)
    along = _map(folder, tmp_path / "tiles", Streaming(window=128, overlap=overlap))[1, 40]
    assert along[0] < 0.01
    assert along[-1] > 0.99  # the windows do disagree
    # The spline is steepest in the middle, by 1.5 over the overlap.
    assert np.abs(np.diff(along)).max() <= 1.5 / overlap + 1 / UNITS
    stream = stream_of(Tiles(tmp_path / "tiles"), folder, Streaming(window=128))
    assert stream.layout.overlap == 32, "windows that cannot see all a model looks at are blended by default"


def test_blocks_of_any_size_give_the_same_bits(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", RNG.normal(size=(2, 150, 90)), RNG.random((150, 90)) < 0.7, side=32)
    folder = write_network(tmp_path / "model", RNG.normal(size=(3, 2, 5, 5)), stride=4)
    stream = stream_of(Tiles(tmp_path / "tiles"), folder, Streaming(window=20, overlap=8))
    whole = _map(folder, tmp_path / "tiles", Streaming(window=20, overlap=8, rows=99))
    for rows, cols in ((1, 1), (2, 3), (5, 2)):
        for block in stream.layout.blocks(rows, cols):
            for window, likely in finished(stream, block):
                np.testing.assert_array_equal(likely, whole[:, *window.slices])


def test_a_window_is_predicted_in_halves_where_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiles(tmp_path / "tiles", RNG.normal(size=(2, 150, 90)), RNG.random((150, 90)) < 0.7, side=32)
    folder = write_network(tmp_path / "model", RNG.normal(size=(3, 2, 5, 5)), stride=4)
    config = Streaming(window=80, batch=2)
    whole = _map(folder, tmp_path / "tiles", config)
    shapes = []
    honest = Predictor.probabilities

    def cramped(self: Predictor, image: np.ndarray, *more: object) -> np.ndarray:
        shapes.append(image.shape)
        if image.size > 2 * 60 * 60:
            raise MemoryError
        return honest(self, image, *more)

    monkeypatch.setattr(Predictor, "probabilities", cramped)
    np.testing.assert_allclose(_map(folder, tmp_path / "tiles", config), whole, atol=1e-6)
    assert len(shapes) > 8
    assert "memory ran out for 1 x 88 x 88 pixels" in caplog.text
    monkeypatch.setattr(Predictor, "probabilities", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        _map(folder, tmp_path / "tiles", config)


def test_only_wanted_windows_are_predicted_and_they_agree_with_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = write_tiles(tmp_path / "tiles", RNG.normal(size=(2, 128, 128)), side=32)
    folder = write_network(tmp_path / "model", RNG.normal(size=(3, 2, 3, 3)))
    config = Streaming(window=32, overlap=8, batch=1, rows=2)
    whole = _map(folder, tmp_path / "tiles", config)
    calls = []
    honest = Predictor.probabilities
    monkeypatch.setattr(Predictor, "probabilities", lambda *args: calls.append(1) or honest(*args))
    wanted = np.zeros((128, 128), bool)
    wanted[60:64, 100] = True
    stream = stream_of(tiles, folder, config, lambda window: wanted[window.slices])
    found = np.zeros_like(whole)
    for block in blocks_of(stream.layout, config):
        for window, likely in finished(stream, block):
            found[:, *window.slices] = likely
    assert found[:, wanted].any(axis=0).all()
    np.testing.assert_array_equal(found[:, wanted], whole[:, wanted])
    # Of the windows at 0, 24, 48, 72 and 96, rows 60..63 lie in that at 48 only, column 100 in those at 72 and 96.
    assert len(calls) == 2


@pytest.mark.parametrize("overlap", [0, 16])
def test_memory_does_not_grow_with_the_height(tmp_path: Path, overlap: int) -> None:
    peaks = []
    for height in (256, 2048):
        tiles = write_tiles(tmp_path / str(height), np.ones((1, height, 96)), side=64)
        folder = write_network(tmp_path / "model", np.ones((3, 1, 3, 3)))
        stream = stream_of(tiles, folder, Streaming(window=64, overlap=overlap))
        (block,) = stream.layout.blocks(10_000, 10_000)
        load(folder)
        tracemalloc.start()
        most = max(window.height for window, _ in finished(stream, block))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert most <= 64
    # How far reading is ahead differs from run to run; eight times the height would show.
    assert peaks[1] < 2 * peaks[0]


def test_an_overlap_wider_than_half_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to half of window"):
        Streaming(window=64, overlap=33)


@pytest.mark.parametrize(("margin", "overlap"), [(0, 0), (44, 0), (64, 0), (65, 32)])
def test_windows_overlap_where_a_model_looks_beyond_what_is_read(margin: int, overlap: int) -> None:
    assert layout_of(card_of(2, 2, margin=margin), (5000, 5000), Streaming()).overlap == overlap


def test_without_overlap_there_are_blocks_enough_to_keep_all_workers_busy() -> None:
    blocks = blocks_of(Layout(4096, 4096, 512, 0, 8, 48), Streaming(), 2)
    assert len(blocks) == 8
    assert len({(len(block.rows), len(block.cols)) for block in blocks}) == 1
    # Six columns of 768 px would be five and one, of which the one worker would wait for the other.
    assert {len(block.cols) for block in blocks_of(Layout(4096, 4608, 768, 0, 8, 48), Streaming(), 2)} == {3}
