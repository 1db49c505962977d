"""Steps of the time axis: counted from the first day, cut with the season, each date in one of them."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.errors import SceneError
from stages.geo.steps import Length, TimeConfig, lay_steps


def steps(dates, **config):
    return lay_steps(dates, TimeConfig.model_validate(config))


def test_without_a_step_every_date_is_one():
    found = steps(["", "2018", "2018-05-03"])
    assert (found.names, found.days, found.dates, found.seasons) == (
        ("", "2018", "2018-05-03"), None, ((0,), (1,), (2,)), 1
    )  # fmt: skip


def test_months_run_from_the_month_of_the_first_scene_to_that_of_the_last():
    found = steps(["2017-12-30", "2018-01-01", "2018-01-31", "2018-03-01"], step="1 month")
    assert found.names == ("2017-12-01", "2018-01-01", "2018-02-01", "2018-03-01")
    assert found.dates == ((0,), (1, 2), (), (3,))
    # Days since 1 January 2017: December is days 334 to 365.
    assert found.days == (349.5, 365 + 15.5, 365 + 31 + 14, 365 + 59 + 15.5)
    assert found.most == 2


def test_steps_of_days_are_counted_from_the_first_of_january():
    found = steps(["2018-01-20", "2018-02-20"], step="16 days")
    assert found.names == ("2018-01-17", "2018-02-02", "2018-02-18")
    assert found.days == (24.0, 40.0, 56.0)
    assert steps(["2018-05-09"], step="3 months").names == ("2018-04-01",)


def test_from_and_to_bound_the_scenes_and_cut_the_last_step():
    dates = ["2017-12-31", "2018-01-01", "2018-12-18", "2018-12-19", "2018-12-31", "2019-01-01"]
    found = steps(dates, step="16 days", **{"from": "2018", "to": "2018"})
    assert len(found.names) == 23
    assert found.names[-1] == "2018-12-19"
    assert (found.dates[0], found.dates[-2], found.dates[-1]) == ((1,), (2,), (3, 4))
    # The last step is 19 to 31 December, 13 days from day 352.
    assert found.days[-1] == 352 + 6.5


def test_a_year_of_16_days_has_23_steps_and_the_last_is_shorter():
    found = steps(["2016-06-01", "2017-06-01"], step="16 days", season="1 year")
    assert (found.seasons, len(found.names)) == (2, 46)
    assert found.names[22:24] == ("2016-12-18", "2017-01-01")
    assert found.names[45] == "2017-12-19"
    # 14 days in the leap year, 13 in the other, both counted from their own 1 January.
    assert found.days[22] == 352 + 7.0
    assert found.days[45] == 352 + 6.5


def test_a_step_that_fills_365_days_takes_the_leap_day_in():
    found = steps(["2016-12-31"], step="5 days", season="1 year")
    assert len(found.names) == 73
    assert (found.names[-1], found.dates[-1]) == ("2016-12-26", (0,))
    assert found.days[-1] == 360 + 3.0


def test_seasons_begin_with_the_day_and_month_of_from():
    found = steps(
        ["2017-08-31", "2017-09-01", "2018-08-31", "2018-09-01"],
        step="1 month", season="1 year", **{"from": "2017-09-01"},
    )  # fmt: skip
    assert (found.seasons, found.names[0], found.names[12]) == (2, "2017-09-01", "2018-09-01")
    assert (found.dates[0], found.dates[11], found.dates[12]) == ((1,), (2,), (3,))


def test_seasons_without_a_scene_are_left_out_at_the_ends_only():
    found = steps(["2017-05-01"], step="1 month", season="1 year", **{"from": "2015-01-01", "to": "2019-12-31"})
    assert (found.seasons, found.names[0]) == (1, "2017-01-01")
    with pytest.raises(SceneError, match="no scene lies in the season that begins on 2018-01-01"):
        steps(["2017-05-01", "2019-05-01"], step="1 month", season="1 year")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 1500), min_size=1, max_size=30),
    st.sampled_from(["7 days", "10 days", "1 month", "2 months", "5 months"]), st.booleans(),
)  # fmt: skip
def test_every_date_falls_into_the_one_step_that_holds_it(offsets, step, seasonal):
    dates = sorted({str(date(2016, 1, 1) + timedelta(days=d)) for d in offsets})
    years = {text[:4] for text in dates}
    if seasonal and len(years) != int(max(years)) - int(min(years)) + 1:
        return
    found = steps(dates, step=step, season="1 year" if seasonal else "none")
    assert sorted(i for held in found.dates for i in held) == list(range(len(dates)))
    assert all(a < b for a, b in pairwise(found.names))
    for name, after, held in zip(found.names, [*found.names[1:], "9999"], found.dates, strict=True):
        assert all(name <= dates[i] < after for i in held)
    assert len(found.names) % found.seasons == 0
    assert found.dates[0] if not seasonal else True
    assert all(a < b for a, b in pairwise(found.axis))


def test_a_month_falls_into_a_step_that_holds_all_of_it():
    assert steps(["2018-05"], step="1 month").dates == ((0,),)
    with pytest.raises(SceneError, match="a scene is of 2018-05, which falls into several steps of 16 days"):
        steps(["2018-05"], step="16 days")
    with pytest.raises(SceneError, match="a scene without a date falls into no step"):
        steps(["", "2018-05-01"], step="1 month")


def test_no_scene_between_from_and_to():
    with pytest.raises(SceneError, match=r"no scene lies between tile\.time\.from 2019 and to \(open\); .* 2018-05-01"):
        steps(["2018-05-01"], **{"from": 2019})


@pytest.mark.parametrize(("text", "shown"), [("1 month", "1 month"), ("2 weeks", "14 days"), ("1 year", "12 months"),
                                             ("16days", "16 days")])  # fmt: skip
def test_lengths(text, shown):
    assert str(Length.of(text)) == shown
    assert TimeConfig.model_validate({"step": text}).step == shown


def test_a_month_after_the_31st_is_the_end_of_the_next():
    assert Length.of("1 month").after(date(2018, 1, 31), 1) == date(2018, 2, 28)
    assert Length.of("1 year").after(date(2016, 2, 29), 1) == date(2017, 2, 28)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"step": "often"}, "'often' is no length of time"), ({"step": "0 days"}, "is no length"),
        ({"season": "1 year"}, "season: 1 year needs steps"), ({"fill": "savgol"}, "fill: savgol needs steps"),
        ({"step": "2 years", "season": "1 year"}, "holds no step of 24 months"),
        ({"from": "2019", "to": "2018"}, "which is after to"), ({"from": "May"}, "is not a date"),
        ({"to": "2018-13"}, "2018-13 is not a date .month must be in 1..12"),
        ({"step": "1 month", "window": 4}, "window must be odd"), ({"least": 0}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_settings_that_make_no_steps(config, words):
    with pytest.raises(ValidationError, match=words):
        TimeConfig.model_validate(config)
