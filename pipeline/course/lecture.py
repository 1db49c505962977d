"""What a lecture gives to its page: paragraphs, pictures, and results beside the published figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A plot or an image of a lecture, with what it shows."""

    caption: str
    #: An SVG document, or the bytes of a PNG file.
    content: str | bytes


@dataclass(frozen=True)
class Result:
    """One measured figure, and the published one with its source where there is one."""

    what: str
    ours: str
    published: str = ""
    #: Authors, year and title; with the address where there is a lasting one.
    source: str = ""


@dataclass(frozen=True)
class Lecture:
    """One page of the course."""

    #: "1" to "8", or the name of a page beside the lectures.
    number: str
    title: str
    #: Paragraphs of plain text.
    text: tuple[str, ...]
    pictures: tuple[Picture, ...]
    results: tuple[Result, ...]
