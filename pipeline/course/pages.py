"""Write the course's page: every lecture with its text, its plots, and its figures beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.course.lecture import Lecture, Picture
from stages.delivery.page import cell, document, figure, grid, picture, section, table, text

LEAD = (
    "Deep learning for remote sensing, from the perceptron to networks that generate and agents that choose. Every "
    "figure was measured by the code of this project, on the machine that wrote this page."
)
SMALL = "The small version, for a first look; make course-full LECTURE={} runs the experiments at their full size."


def page(lectures: Sequence[tuple[Lecture, bool]]) -> str:
    """Write the page of all lectures, each given with whether it was run in full."""
    links = "".join(f'<li><a href="#{escape(one.number)}">{escape(heading_of(one))}</a></li>' for one, _ in lectures)
    body = ["<h1>The course</h1>", text(LEAD, "lead"), f"<ul>{links}</ul>"]
    return document("Terrastage: the course", [*body, *(lecture_part(one, full) for one, full in lectures)])


def heading_of(lecture: Lecture) -> str:
    """Name a lecture with its number, where it has one."""
    return f"{lecture.number}. {lecture.title}" if lecture.number.isdigit() else lecture.title


def lecture_part(lecture: Lecture, full: bool) -> str:
    """Write one lecture."""
    rows = [[cell(one.what), cell(one.ours), cell(one.published, one.source)] for one in lecture.results]
    written = section(
        heading_of(lecture),
        "" if full else text(SMALL.format(lecture.number), "small"),
        *(text(words) for words in lecture.text),
        table(["", "measured", "published"], rows, "wide prose") if rows else "",
        grid("pair", *(_picture(one) for one in lecture.pictures)),
    )
    return written.replace("<section>", f'<section id="{escape(lecture.number)}">', 1)


def _picture(one: Picture) -> str:
    if isinstance(one.content, str):
        return figure(one.content, one.caption, "plot")
    return picture(one.content, one.caption, "plot")
