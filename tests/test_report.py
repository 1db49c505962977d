"""The report: one page with every figure in it, and nothing fetched from elsewhere."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from stages.delivery import charts, numbers, pictures, thinned
from stages.delivery.charts import ClassSeries
from stages.delivery.observations import Observed, spread_of
from stages.delivery.report import Report, SieveEffect, render
from stages.formats.samples import Part, Samples
from stages.formats.tiles import Tiles
from stages.formats.weights import read_card
from stages.settings import MapClass
from tests.delivery import area_of, make, scores_of, series_of

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


def test_labels_divided_at_random_are_told(report):
    told = "these scores are too good for new ground"
    assert told not in render(report)
    page = words(render(replace(report, scores={**report.scores, "split_by": "random"})))
    assert told in page
    assert "test pixels held out at random" in page
    assert told in render(replace(report, split_by="random"))
    assert told not in render(replace(report, scores={**report.scores, "split_by": "blocks"}, split_by="blocks"))


def test_seasons_have_a_table(report):
    assert "Season by season" not in render(report)
    season = {"overall_accuracy": {"value": 0.81, "low": 0.79, "high": 0.84}, "macro_f1": 0.6, "pixels": 1234}
    row = "2019 81.0 % 79.0 to 84.0 % – 60.0 % 1 234"
    model = {**report.scores["models"]["unet"], "by_season": {"2019": season}}
    for scores in (
        {"by_season": {"2019": season}},
        {"by_season": {"2019": {"models": {"unet": season}}}},
        {"models": {"unet": model}},
    ):
        assert row in words(render(replace(report, scores={**report.scores, **scores})))


@pytest.mark.parametrize(
    ("dates", "step", "said"),
    [
        (("2018-03-04",), "", "2018-03-04"),
        (("2018-03-04", "2019-01-01"), "", "2 dates, 2018-03-04 to 2019-01-01"),
        (("2018-01-01", "2018-02-01", "2018-03-01"), "1 month", "3 steps of 1 month, 2018-01 to 2018-03"),
        (("2018-01-01", "2018-03-01"), "2 months", "2 steps of 2 months, 2018-01 to 2018-03"),
        (("2018-01-01", "2018-01-17"), "16 days", "2 steps of 16 days, 2018-01-01 to 2018-01-17"),
        (("2018-01-01",), "1 year", "1 step of 1 year, 2018"),
    ],
)
def test_dates_are_summed_up(dates, step, said):
    assert numbers.period_of(dates, step) == said


def test_title_tells_the_mapped_dates_and_the_origin_those_learnt_from(report):
    learnt = tuple(f"2018-{month:02d}-01" for month in range(1, 13))
    mapped = tuple(date.replace("2018", "2020") for date in learnt)
    channels = tuple(f"{band}@{date}" for date in learnt for band in ("red", "NDVI"))
    card = replace(report.card, channels=channels, dates=learnt, step="1 month")
    page = words(render(replace(report, card=card, dates=mapped, step="1 month")))
    assert "from 24 channels in 12 steps of 1 month, 2020-01 to 2020-12." in page
    assert "channels red, NDVI; each of 12 steps of 1 month, 2018-01 to 2018-12" in page
    assert "dates learnt from 12 steps of 1 month, 2018-01 to 2018-12" in page
    same = words(render(replace(report, card=card, dates=learnt, step="1 month")))
    assert "dates learnt from" not in same
    chosen = replace(card, channels=channels[:3])
    assert "channels red@2018-01-01, NDVI@2018-01-01, red@2018-02-01 " in words(render(replace(report, card=chosen)))


def test_series_have_a_chart_a_band_indices_first(report):
    means = np.array([[[1.0, 0.2], [3.0, 0.6]], [[np.nan, np.nan], [2.0, 0.4]]])
    series = ClassSeries(("B04", "ndvi"), ("2018-01-01", "2018-07-01"), (0.0, 181.0), means, means / 10)
    page = render(replace(report, series=series))
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert page.index("ndvi of every class") < page.index("B04 of every class")
    # A lone point has no shade to either side, but a dot; both classes have their line in both bands.
    assert len(re.findall(r'class="line" stroke="#2f6b3a"', page)) == 2
    assert len(re.findall(r'class="line" stroke="#2b6cb0"', page)) == 2
    assert "All 3 seasons" in render(replace(report, series=replace(series, seasons=3)))
    assert "Each class through time" not in render(report)


def test_chart_lies_true_to_the_values():
    """A mean of 0 at the first and 10 at the last day, one up and down: the lines lie where the axes say."""
    plane = charts.Plane((0.0, 10.0), (0.0, 100.0))
    assert (plane.across(0.0), plane.across(10.0)) == (plane.LEFT, plane.width - plane.RIGHT)
    assert (plane.down(0.0), plane.down(100.0)) == (plane.height - plane.BOTTOM, plane.TOP)
    means = np.array([[[0.0], [10.0], [np.nan], [5.0]]])
    days = (0.0, 100.0, 200.0, 300.0)
    series = ClassSeries(("x",), ("2018-01-01",) * 4, days, means, np.ones_like(means))
    drawn = charts.series_chart(series, 0, LEGEND[:1])
    (line,) = re.findall(r'class="line"[^>]* d="([^"]*)"', drawn)
    runs = [[tuple(map(float, point.split())) for point in run.split("L")] for run in line.split("M")[1:]]
    assert [len(run) for run in runs] == [2, 2]  # the gap parts them, and the last, alone, is a dot
    (left, low), (right, high) = runs[0]
    assert left < right < runs[1][0][0]
    assert high < low
    assert runs[1][0] == runs[1][1]
    assert runs[1][0][1] == pytest.approx((low + high) / 2, abs=0.11)
    upper, lower = (re.findall(r'class="spread"[^>]* d="M([^"]*)z"', drawn)[0].split("L")[i] for i in (0, -1))
    assert float(lower.split()[1]) - float(upper.split()[1]) == pytest.approx(0.2 * (low - high), abs=0.21)


def test_a_long_series_takes_the_width_of_the_page(report):
    for steps, long in ((40, False), (41, True)):
        days, means = tuple(map(float, range(steps))), np.random.default_rng(0).normal(size=(2, steps, 1))
        series = ClassSeries(("x",), ("2018-01-01",) * steps, days, means, np.abs(means))
        assert ('class="charts long"' in render(replace(report, series=series))) == long


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0.0, 1.0, [0.0, 0.5, 1.0]), (0.12, 0.58, [0.2, 0.3, 0.4, 0.5]), (-3.0, 3.0, [-2.0, 0.0, 2.0]),
     (900.0, 5100.0, [1000.0, 2000.0, 3000.0, 4000.0, 5000.0])],
)  # fmt: skip
def test_marks_are_round(low, high, marks):
    assert charts.round_marks(low, high) == marks


def test_time_is_marked_at_months_and_years():
    def marks(reach, first, years=True):
        return charts.time_marks(reach, (first, "2099-01-01"), reach, years=years)

    assert marks((0.0, 364.0), "2018-01-01") == [(0, "Jan 2018"), (90, "Apr"), (181, "Jul"), (273, "Oct")]
    assert [name for _, name in marks((273.0, 500.0), "2018-10-01")] == ["Nov 2018", "Jan 2019", "Mar", "May"]
    assert [name for _, name in marks((273.0, 620.0), "2018-10-01")] == ["Oct 2018", "Jan 2019", "Apr", "Jul"]
    assert [name for _, name in marks((273.0, 620.0), "2018-10-01", years=False)] == ["Oct", "Jan", "Apr", "Jul"]
    assert [name for _, name in marks((100.0, 1900.0), "2015-04-11")] == ["2016", "2017", "2018", "2019", "2020"]
    # Leap years count: 2016 has 366 days.
    assert [day for day, _ in marks((100.0, 1900.0), "2015-04-11")] == [365, 731, 1096, 1461, 1826]
    # Within a month there is no month to mark.
    assert charts.time_marks((4.0, 9.0), ("2018-01-05", "2018-01-10"), (4.0, 9.0)) == [
        (4.0, "2018-01-05"), (9.0, "2018-01-10"),
    ]  # fmt: skip


def test_observations_are_told_in_words(report):
    clear, filled = np.zeros(31, int), np.zeros(101, int)
    clear[[0, 3, 10, 30]] = 40, 1, 2, 1
    filled[[0, 50]] = 3, 1
    page = words(render(replace(report, observed=Observed(clear, filled, 40, 1, "1 month"))))
    assert "The 4 pixels that were seen at all had 3 to 30 clear observations, 10 in the median." in page
    assert "Steps of 1 month are made of them." in page
    assert "12.5 % of all values, 0 to 50 % of the steps of a pixel and 0 % in the median" in page
    assert "40 pixels (90.9 % of the grid) were never clear and are nodata in the map." in page
    assert "1 pixel was seen at times and is nodata all the same." in page
    assert "clear.tif number of clear observations of every pixel filled.tif share" in page
    filled[50] = 0
    page = words(render(replace(report, observed=Observed(clear, filled, 0, 0))))
    assert "never clear" not in page
    assert "filled" not in page
    assert "Clear observations" not in render(report)


def test_all_equal_and_no_observations_can_be_told(report):
    filled = np.zeros(101, int)
    one = render(replace(report, observed=Observed(np.array([0, 7]), filled, 0, 0)))
    assert "Every pixel that was seen at all had 1 clear observation." in one
    assert 'class="bar"' not in one
    assert "No pixel was ever clear." in render(replace(report, observed=Observed(np.array([7]), filled, 7, 0)))


@pytest.mark.parametrize("values", [[3], [3, 4], [1, 1, 9], [0, 2, 2, 7], [0, 0, 5, 5, 6, 6]])
def test_spread_is_that_of_the_values(values):
    assert spread_of(np.bincount(values)) == (min(values), np.median(values), max(values))
    above = [value for value in values if value]
    assert spread_of(np.bincount(values), first=1) == (min(above), np.median(above), max(above))


def test_bars_hold_every_pixel_once():
    counts = np.zeros(301, int)
    counts[[20, 21, 150, 300]] = 1, 1, 5, 3
    drawn = charts.bars_chart(counts, "pixels")
    shares = [float(share) for share in re.findall(r": ([\d.]+) %</title>", drawn)]
    assert sum(shares) == pytest.approx(100.0)
    assert len(shares) <= 48
    assert "<title>20 to 25: 20.0 %</title>" in drawn


def test_the_clearest_date_is_shown(tmp_path):
    area = series_of(INDICES)
    valid = area.valid.copy()
    valid[:4, :20], valid[5:, 3:] = False, False
    tiles = Tiles(make(tmp_path / "world", replace(area, valid=valid)).root / "tiles")
    assert thinned.clearest(tiles) == 4
    clear, filled = thinned.observed(tiles, 15)
    assert (clear == area.clear[::3, ::3]).all()
    assert (filled == area.filled[::3, ::3]).all()


def opened(png):
    return Image.open(io.BytesIO(png)).convert("RGB") if png else None


def words(page):
    """The text of a page, blanks made plain."""
    text = re.sub(r"<[^>]+>", " ", page.replace("<i ", " <i "))
    return re.sub(r"[\s\u202f]+", " ", text)
