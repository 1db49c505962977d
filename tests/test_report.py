"""The report: one page with every figure in it, and nothing fetched from elsewhere."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from stages.delivery import numbers, pictures, thinned
from stages.delivery.report import Report, SieveEffect, render
from stages.formats.samples import Part, Samples
from stages.formats.tiles import Tiles
from stages.formats.weights import read_card
from stages.settings import MapClass
from tests.delivery import area_of, make, scores_of

LEGEND = (
    MapClass(name="forest", labels=(1,), code=1, color="#2f6b3a"),
    MapClass(name="<b>water</b>", labels=(2, 3), code=2, color="#2b6cb0"),
)
INDICES = np.repeat(np.array([[0, 1, 255]], np.uint8), 12, axis=1).repeat(30, axis=0)
GROUND = pictures.Ground(360.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("report") / "world", area_of(INDICES))


@pytest.fixture
def report(made):
    scores = scores_of(replace(area_of(INDICES), names=tuple(entry.name for entry in LEGEND)))
    return Report(
        title="North & South", attribution="Somebody, CC BY-SA 3.0", legend=LEGEND,
        card=read_card(made.root / "model" / "unet"), areas=(12.0, 36.0), sieve=SieveEffect(0.0, 0.0), scores=scores,
        pictures={"map": pictures.map_picture(INDICES, LEGEND, GROUND)}, notes=("A note.",),
        shown_bands=("red", "green", "blue"),
    )  # fmt: skip


class Checker(HTMLParser):
    """Holds tags to their ends and remembers what is linked."""

    VOID = "meta", "img", "br", "link"

    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_fetches_nothing(report):
    page, checker = render(report), Checker()
    checker.feed(page)
    assert not checker.open
    assert checker.links
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert not checker.tags & {"script", "link", "iframe"}
    assert "http" not in page
    assert "url(" not in page


def test_texts_of_users_are_escaped(report):
    page = render(report)
    assert "<h1>North &amp; South</h1>" in page
    assert "&lt;b&gt;water&lt;/b&gt;" in page
    assert "<b>water" not in page


def test_headline_gives_accuracy_interval_pixels_and_warning(report):
    page = words(render(report))
    assert "74.1 % agreement with the reference labels 95 % interval 71.1 to 77.1 %" in page
    assert "36 684 test pixels in 14 held-out ground blocks" in page
    assert "Only 14 ground blocks were scored" in page
    assert "expected agreement with the reference labels at unlabelled ground inside this area" in page


def test_enough_blocks_bring_no_warning(report):
    scores = {**report.scores, "blocks": 40, "warning": None}
    assert 'class="warning"' not in render(replace(report, scores=scores))


def test_tables_hold_the_scores(report):
    page = words(render(report))
    assert "rf 72.9 % 69.9 to 75.9 %" in page
    assert "forest 70.0 % 60–90 80.0 % 60–90 75.0 % 60–90 60.0 % 60–90 100 12.0 10.0 1.20" in page
    assert "forest 90.0 % 90 10.0 % 10" in page  # confusion: 90 of 100 right
    assert "forest 12.0 25.0 %" in page  # hectares and share of the map
    assert "Somebody, CC BY-SA 3.0" in page


def test_what_is_undefined_shows_as_a_dash(report):
    scores = report.scores
    nothing = {"precision": None, "recall": None, "f1": None, "iou": None, "pixels": 0, "mapped_ha": 0.0,
               "reference_ha": 0.0, "ratio": None}  # fmt: skip
    model = {**scores["models"]["unet"], "classes": {"forest": nothing}, "intervals": {},
             "kappa": {"value": None, "low": None, "high": None}}  # fmt: skip
    page = words(render(replace(report, scores={**scores, "models": {"unet": model}})))
    assert "forest – – – – 0 0.00 0.00 –" in page


def test_scores_without_the_further_keys_are_enough(report):
    """The keys that the schema promises, and no others."""
    full = report.scores["models"]["unet"]
    model = {
        key: full[key] for key in ("overall_accuracy", "balanced_accuracy", "macro_f1", "kappa", "ece", "confusion")
    }
    classes = {name: {k: v for k, v in row.items() if k != "ratio"} for name, row in full["classes"].items()}
    page = words(
        render(replace(report, scores={"best": "unet", "pixels": 5, "models": {"unet": {**model, "classes": classes}}}))
    )
    assert "1.20" in page  # the ratio is worked out


def test_independent_test_set_stands_apart(report):
    apart = {"pixels": 1234, "blocks": 50, "warning": None, "models": report.scores["models"]}
    page = words(render(replace(report, scores={**report.scores, "independent": apart})))
    assert "Independent test set 74.1 %" in page
    assert "1 234 independent test pixels" in page


def test_sieve_says_what_it_changed():
    effect = SieveEffect(0.36, 0.05, 1000, 0.71, 0.725)
    assert words(effect.sentence()).endswith("changes 5.0 % of the mapped pixels and moves the agreement on 1 000 "
                                             "labelled pixels of the test blocks from 71.0 % to 72.5 %.")  # fmt: skip
    assert SieveEffect(0.36, 0.05).sentence().endswith("of the mapped pixels.")
    assert "No patch was merged" in SieveEffect(0.0, 0.0).sentence()


def test_numbers_are_written_for_people():
    assert [words(numbers.hectares(area)) for area in (0.3249, 12.34, 123.4, 14901.2, None)] == [
        "0.32", "12.3", "123", "14 901", "–",
    ]  # fmt: skip
    assert numbers.value_of({"value": 0.5}) == numbers.value_of(0.5) == 0.5
    assert numbers.range_of(0.5) == ""


def test_map_picture_shows_every_class_in_its_colour():
    image = opened(pictures.map_picture(INDICES, LEGEND, GROUND))
    counts = {color: count for count, color in image.getcolors(1 << 20)}
    forest, water = counts[(0x2F, 0x6B, 0x3A)], counts[(0x2B, 0x6C, 0xB0)]
    # Both cover half of the picture, but for the scale bar's ground in the forest's corner.
    assert 0.75 < forest / water < 1.0


def test_pictures_are_equal_bytes_and_name_no_program():
    drawn = [pictures.map_picture(INDICES, LEGEND, GROUND, "Title", "CC BY") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert b"matplotlib" not in drawn[0].lower()
    assert opened(drawn[0]).info.keys() <= {"dpi"}


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2)])
def test_any_shape_can_be_drawn(shape):
    assert opened(pictures.map_picture(np.zeros(shape, np.uint8), LEGEND, GROUND)).size > (1, 1)
    assert opened(pictures.map_picture(np.full(shape, 255, np.uint8), LEGEND, GROUND)).size > (1, 1)


def test_many_channels_and_a_missing_class_can_be_drawn():
    names = [f"b{band}@2020-{month:02d}" for month in range(1, 13) for band in range(4)]
    assert pictures.spectra_picture([[1.0] * 48, None], names, LEGEND)


@pytest.mark.parametrize(("metres", "length"), [(13_900, 10_000), (2787, 2000), (5.0, 5.0), (0.7, 0.5), (999, 500)])
def test_scale_bars_are_round(metres, length):
    assert pictures.round_length(metres) == pytest.approx(length)


def test_thinning_is_every_nth_pixel_whatever_the_tiles():
    grid = area_of(np.zeros((45, 37), np.uint8)).grid
    values = np.arange(45 * 37).reshape(45, 37)
    for side in (10, 20, 44, 45, 100):
        step = max(1, -(-45 // side))
        assert (thinned.thin(lambda window: values[window.slices], grid, side) == values[::step, ::step]).all()


def test_quicklook_is_white_where_nothing_is_valid(made):
    rgb, bands = thinned.quicklook(Tiles(made.root / "tiles"), 100)
    assert bands == ("red", "green", "blue")
    assert (rgb[:, 24:] == 255).all()
    assert rgb[:, :24].min() == 0
    assert 100 < rgb[:, :24].mean() < 200


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (("B02", "B03", "B04", "B08"), ("B04", "B03", "B02")),
        (("x", "y", "z"), ("x", "y", "z")),
        (("vv", "vh"), ("vv", "vv", "vv")),
    ],
)
def test_bands_are_chosen_by_name(bands, shown):
    assert thinned.natural_bands(bands) == shown


def test_parts_are_those_of_the_samples(made):
    grid = area_of(INDICES).grid
    samples = Samples(made.root / "samples")
    parts = thinned.parts(samples, grid, 1000)
    assert (parts == samples.part(0, grid.whole)).all()
    assert set(np.unique(parts)) == {Part.TRAIN, Part.VALIDATION, Part.TEST}


def opened(png):
    return Image.open(io.BytesIO(png)).convert("RGB") if png else None


def words(page):
    """The text of a page, blanks made plain."""
    text = re.sub(r"<[^>]+>", " ", page.replace("<i ", " <i "))
    return re.sub(r"[\s\u202f]+", " ", text)
