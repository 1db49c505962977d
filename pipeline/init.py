"""Write an area's config from what its scenes and labels hold, and tell at once what is wrong with them."""

from __future__ import annotations

import glob
import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import check_name
from pipeline.fingerprint import write_whole
from pipeline.naming import PLACEHOLDER, RASTERS, find_layout, tokens_in
from pipeline.palette import colors_for
from stages.errors import ArtifactError, LabelError, SceneError, SettingError
from stages.formats.calendar import day_of
from stages.formats.scenes import Scenes, read_scenes
from stages.geo.clear import GUESSES
from stages.geo.cubes import is_cube, read_cube
from stages.geo.frame import is_geographic, to_crs
from stages.geo.grid import Grid
from stages.geo.headers import Header, read_header

#: A class with fewer samples than this is told as too small; one in fewer blocks cannot be in every split.
FEW_SAMPLES, FEW_BLOCKS = 10, 3
#: Ground blocks to aim at, and the least side of one in pixels.
BLOCKS, LEAST_SIDE = 64, 8
#: Label pixels looked at; a larger label raster is thinned out.
MAX_PIXELS = 16_000_000
MAX_CLASSES = 254
#: Classes in their order, labels on the grid, labels in all.
Counted = tuple[tuple["Found", ...], int, int]
MODELS = "[rf, svm, mlp, cnn, unet, ensemble]"
#: From so many dates on they are taken as a series; over more days than this, one of monthly steps.
SERIES, MONTHLY_DAYS = 6, 120
SERIES_MODELS = "[rf, svm, mlp, lstm, tempcnn, ltae]"


@dataclass(frozen=True)
class Found:
    """One class as the labels hold it: its value, its samples (label pixels, or points) and the blocks they lie in."""

    value: str
    samples: int
    blocks: int

    @property
    def name(self) -> str:
        """What the class is called in the config."""
        return f"class {self.value}" if _is_number(self.value) else self.value


@dataclass(frozen=True)
class Labels:
    """What a label file holds on the grid.

    ``field`` is None for a raster. ``whole`` says of a raster that it marks no pixel as unlabelled, neither by a nodata
    value nor by a mask; ``ignored`` are values that are taken to mean that, all the same.
    """

    path: Path
    field: str | None
    kind: str
    classes: tuple[Found, ...]
    inside: int
    total: int
    whole: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def outside(self) -> int:
        """How many labels lie beyond the scenes."""
        return self.total - self.inside


@dataclass(frozen=True)
class Blocks:
    """Ground blocks on a grid: their side in pixels and in metres."""

    side: int
    metres: float


def write_config(root: Path, name: str, scenes: str, labels: Path | None, field: str | None) -> list[str]:
    """Write `configs/<name>.yaml` below ``root`` and return what to tell about it, a line each.

    ``scenes`` is a path pattern with *, ?, {band} and {date}, or, without ``labels``, a folder with a folder of chips
    a class. Relative paths start at ``root`` or, if nothing is there, at the working directory.

    Raises:
        SettingError: the name is not usable, the config is already there, or ``field`` has nothing to name.
        SceneError: no scene is found, or one cannot be used.
        LabelError: the labels cannot be read, lie beyond the scenes or hold one class only.
        ArtifactError: the config cannot be written.
    """
    target = root / "configs" / f"{name}.yaml"
    check_name(name)
    if target.exists():
        raise SettingError(f"configs/{name}.yaml is already there; edit it, delete it or choose another name.")
    if field is not None and labels is None:
        raise SettingError(f"--field {field} names a column of the labels, but there is no --labels; give both.")
    if labels is None and (chips := _chip_folder(root, scenes)):
        return _write_chips(root, name, chips)
    pattern, files = find_files(root, scenes)
    if any(is_cube(path) for path in files):
        ingest = _cube_section(root, pattern, files)
    else:
        ingest = _ingest_section(root, pattern, files, [read_header(path) for path in files])
    ingest |= _quality(ingest)
    table = _try_ingest(root, ingest)
    grid = _propose_grid(table)
    blocks = propose_blocks(grid)
    notes = [*_describe(table, grid)]
    found = None
    if labels is not None:
        path = next((place for place in (root / labels, labels.resolve()) if place.exists()), labels)
        found = read_labels(path, _checked_field(path, field), grid, blocks)
        notes += judge(found)
    _write(root, name, [
        *_grid_section(grid),
        *(_classes_section(found) if found else []),
        *_ingest_text(ingest, table),
        *_tile_section(table),
        *(_label_section(root, found, blocks) if found else _given_section()),
        *(_train_section(table) if found else []),
        "export:",
        f"  min_area: {4 * _hectares(grid):.4g}   # hectares: polygons smaller than 4 pixels join their neighbours",
        "",
    ])  # fmt: skip
    then = "next:" if found else "name a model in it (given.model) or add labels, then:"
    return [*notes, f"Wrote configs/{name}.yaml; {then} make run AREA={name}"]


def _chip_folder(root: Path, scenes: str) -> Path | None:
    """Find the folder of chips, with a folder a class, that ``scenes`` names; None where it names something else."""
    from pipeline.init_chips import class_folders

    return next((base / scenes for base in (root, Path.cwd()) if class_folders(base / scenes)), None)


def _write_chips(root: Path, name: str, folder: Path) -> list[str]:
    """Write the config of a folder of chips."""
    from pipeline.init_chips import propose

    lines, notes = propose(folder, relative(root, folder))
    _write(root, name, lines)
    return [*notes, f"Wrote configs/{name}.yaml; next: make run AREA={name}"]


def _write(root: Path, name: str, lines: Sequence[str]) -> None:
    """Write a config: its head, and the lines of its sections.

    Raises:
        ArtifactError: it cannot be written.
    """
    target = root / "configs" / f"{name}.yaml"
    text = "\n".join([
        f"# The area {name}, written by `terrastage init` from what the files hold. Change what you like.",
        f"title: {json.dumps(name.replace('_', ' ').replace('-', ' ').capitalize())}",
        'attribution: ""   # licence and source of the data, shown with every map',
        "",
        *lines,
    ])  # fmt: skip
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text)
    except OSError as fault:
        raise ArtifactError(
            f"Cannot write {target} ({fault.strerror}); check that {target.parent} is a folder you may write to."
        ) from fault


# --- scenes ----------------------------------------------------------------------------------------------------------


def find_files(root: Path, scenes: str) -> tuple[str, list[Path]]:
    """Find the files of a pattern, absolute, and the pattern with its folder made absolute.

    Raises:
        SceneError: there is none.
    """
    for base in (root, Path.cwd()):
        pattern = str(base / scenes)
        if Path(pattern).is_dir() and not is_cube(Path(pattern)):
            pattern += "/*"
        found = sorted(Path(p) for p in glob.glob(_spelled(pattern), recursive=True))  # noqa: PTH207
        files = [path for path in found if path.is_file() or is_cube(path)]
        rasters = [path for path in files if path.suffix.lower() in RASTERS]
        if files:
            return pattern, rasters or files
    raise SceneError(f"no file fits --scenes {scenes!r} below {root}; give a path or a pattern such as 'scenes/*.tif'.")


def _spelled(pattern: str) -> str:
    """Write a pattern for `glob`: as in `ingest`, brackets are part of a name."""
    from stages.ingest import WILDCARD

    return "".join(
        "*" if PLACEHOLDER.fullmatch(part) else part if WILDCARD.fullmatch(part) else glob.escape(part)
        for part in WILDCARD.split(pattern)
    )


def _ingest_section(root: Path, pattern: str, files: list[Path], headers: list[Header]) -> dict[str, Any]:
    """Propose the settings of ingest: the pattern of the files and the bands."""
    single = [header for header in headers if header.count == 1]
    if single and len(single) < len(headers):
        many = next(header for header in headers if header.count > 1)
        raise SceneError(
            f"{many.path} has {many.count} bands but {single[0].path.name} has one; "
            "give --scenes a pattern for one kind of file."
        )
    a_file_a_band = bool(single) and len(files) > 1
    if PLACEHOLDER.search(pattern):
        tokens = tokens_in(pattern, files) if "{band}" in pattern else ()
    else:
        layout = find_layout(files, a_file_a_band)
        pattern, tokens = layout.pattern, layout.tokens
    bands: dict[str, str | int] = {}
    if tokens:
        bands = {f"b{token}" if token.isdigit() else token: token for token in sorted(tokens, key=_by_number)}
    else:
        bands = {band: i + 1 for i, band in enumerate(band_names(headers[0]))}
    scenes: dict[str, str] = {"files": relative(root, Path(pattern))}
    return {"scenes": [scenes], "bands": bands}


def _cube_section(root: Path, pattern: str, files: list[Path]) -> dict[str, Any]:
    """Propose the settings of ingest for NetCDF files or Zarr folders: every variable is a band.

    Raises:
        SceneError: they hold different variables.
    """
    cubes = [read_cube(path) for path in files]
    for cube in cubes[1:]:
        if cube.names != cubes[0].names:
            raise SceneError(
                f"{cube.path} holds {', '.join(cube.names)} but {files[0].name} holds {', '.join(cubes[0].names)}; "
                "give --scenes a pattern for one kind of file, and add the other to ingest.scenes afterwards."
            )
    if not PLACEHOLDER.search(pattern):
        pattern = find_layout(files, False).pattern
    return {"scenes": [{"files": relative(root, Path(pattern))}], "bands": {name: name for name in cubes[0].names}}


def _quality(section: dict[str, Any]) -> dict[str, str]:
    """Take a band that is called as a known quality band to say what is clear, where it is not the only one."""
    known = [band for band in section["bands"] if any(part in band.upper() for part in GUESSES)]
    return {"quality": known[0]} if known and len(section["bands"]) > 1 else {}


def band_names(header: Header) -> list[str]:
    """Name the bands of one file by its descriptions where every band has its own, otherwise b1, b2 ..."""
    indexes = [i for i in range(len(header.names)) if i + 1 not in header.alpha]
    names = [re.sub(r"[^A-Za-z0-9_]+", "_", header.names[i]).strip("_") for i in indexes]
    if all(names) and len(set(names)) == len(names):
        return names
    return [f"b{i + 1}" for i in range(len(indexes))]


def _try_ingest(root: Path, section: dict[str, Any]) -> Scenes:
    """Run ingest with the proposed settings, so that what is written is known to work."""
    from stages import ingest

    entries = [{**entry, "files": root / entry["files"]} for entry in section["scenes"]]
    config = ingest.Config.model_validate({**section, "scenes": entries})
    with tempfile.TemporaryDirectory() as folder:
        ingest.run(Path(folder), config)
        return read_scenes(Path(folder))


def _propose_grid(table: Scenes) -> Grid:
    """Lay the grid that `tile` would lay by itself: that of the finest scene."""
    from stages import tile

    return tile.make_plan(table, tile.Config()).grid


def propose_blocks(grid: Grid) -> Blocks:
    """Choose the side of the ground blocks so that the grid holds about `BLOCKS` of them, in multiples of 8 pixels."""
    side = math.sqrt(grid.width * grid.height / BLOCKS)
    pixels = max(LEAST_SIDE, int(side // LEAST_SIDE) * LEAST_SIDE)
    return Blocks(pixels, pixels * grid.pixel_metres())


def _describe(table: Scenes, grid: Grid) -> Iterator[str]:
    """Say what the scenes are, and what is remarkable about them."""
    dates = [date for date in table.dates if date]
    span = f", {dates[0]} to {dates[-1]}" if len(dates) > 1 else f", {dates[0]}" if dates else ""
    yield (
        f"Found {len({(s.date, s.scene) for s in table.sources})} scenes in "
        f"{len({s.path for s in table.sources})} files{span}: "
        f"{len(table.bands)} bands ({', '.join(table.bands)})."
    )
    sizes = sorted({round(source.frame.metres(), 2) for source in table.sources})
    mixed = f" (files of {' and '.join(f'{size:g}' for size in sizes)} m)" if len(sizes) > 1 else ""
    yield f"Grid: {grid.width} x {grid.height} pixels of {grid.resolution:g}, {grid.crs[:60]}{mixed}."
    if "" in table.dates:
        yield "Check: no date in the names or headers; set ingest.scenes[].date."
    if any(None in source.nodata for source in table.sources):
        yield "Check: the files name no nodata value; if empty ground has one, set ingest.scenes[].nodata."


# --- labels ----------------------------------------------------------------------------------------------------------


def _checked_field(path: Path, field: str | None) -> str | None:
    """Find the column of the class, None for a label raster.

    Raises:
        LabelError: the file is missing or unreadable, or has no such column.
        SettingError: a column is named, but a raster has none.
    """
    from stages.geo.labels import VECTORS, check_file, vector_columns

    check_file(path)
    if path.suffix.lower() not in VECTORS:
        if field is not None:
            raise SettingError(f"--field {field} names a column, but {path} is no vector file; leave --field out.")
        return None
    _, columns = vector_columns(path)
    if field is None and len(columns) == 1:
        return columns[0]
    if field not in columns:
        asked = f"no column {field!r}" if field else "several columns"
        raise LabelError(f"{path} has {asked}; give one of {', '.join(columns) or 'none'} as --field.")
    return field


def read_labels(path: Path, field: str | None, grid: Grid, blocks: Blocks) -> Labels:
    """Count the labels of every class on the grid, and the blocks that they lie in.

    Raises:
        LabelError: `label` would refuse the file, nothing is on the grid, or what is there makes no map.
    """
    found = _read_raster(path, grid, blocks) if field is None else _read_vector(path, field, grid, blocks)
    if not found.inside:
        raise LabelError(
            f"none of the {found.total} labels of {path} overlaps the scenes; see that both show the same place "
            "and that the CRS of each is right."
        )
    if len(found.classes) > MAX_CLASSES:
        raise LabelError(
            f"{path} holds {len(found.classes)} different values, more than {MAX_CLASSES} classes; "
            "give the column or raster of the classes."
        )
    if len(found.classes) < 2:
        advice = "give another column as --field" if found.field else "give another raster"
        raise LabelError(
            f"{path} holds no other class than '{found.classes[0].value}' on the scenes, but a map needs two; "
            f"{advice} or labels of more classes."
        )
    return found


def _read_vector(path: Path, field: str, grid: Grid, blocks: Blocks) -> Labels:
    """Count polygons by their pixels on the grid and points one by one; a polygon lies in the block of its middle."""
    import shapely

    from stages.geo.labels import LabelFile, check_file, read_features

    features = read_features(LabelFile(str(path), (), field=field, stamp=check_file(path)), grid.crs)
    on_grid = shapely.intersection(shapely.make_valid(features.geometry), _ground_of(grid))
    there, where, sizes = ~shapely.is_empty(on_grid), np.full(len(on_grid), -1), np.ones(len(on_grid))
    middles = shapely.point_on_surface(on_grid[there])
    where[there] = _block_of(shapely.get_x(middles), shapely.get_y(middles), grid, blocks)
    if not features.points:
        sizes = shapely.area(on_grid) / grid.resolution**2
        # Neighbours that share no more than an edge with the grid.
        where[sizes == 0] = -1
    names, index = np.unique(np.array(features.value, dtype=str), return_inverse=True)
    kind = "points" if features.points else "polygons"
    counted = _count([str(name) for name in names], index, np.maximum(1.0, sizes), where)
    return Labels(path, field, kind, *counted)


def _read_raster(path: Path, grid: Grid, blocks: Blocks) -> Labels:
    """Count the pixels of a label raster, thinned out where it is large."""
    import rasterio
    from rasterio.enums import MaskFlags

    from stages.geo.headers import frame_of
    from stages.geo.labels import check_raster, label_key

    check_raster(path)
    try:
        read_header(path)
    except SceneError as fault:
        raise LabelError(f"the labels {fault}") from fault
    with rasterio.open(path) as dataset:
        step = max(1, math.ceil(math.sqrt(dataset.width * dataset.height / MAX_PIXELS)))
        shape = -(-dataset.height // step), -(-dataset.width // step)
        values, mask = dataset.read(1, out_shape=shape), dataset.read_masks(1, out_shape=shape) > 0
        frame, whole = frame_of(dataset), MaskFlags.all_valid in dataset.mask_flag_enums[0]
    if values.dtype.kind == "f":
        mask &= np.isfinite(values)
        if (values[mask] != np.round(values[mask])).any():
            fraction = values[mask][values[mask] % 1 != 0][0]
            raise LabelError(f"{path} holds fractions, such as {fraction:g}; give a raster of whole class values.")
    # Without a word on nodata, 0 beside two classes or more is how most programs write "no label".
    found = np.unique(values[mask])
    ignored = ("0",) if whole and 0 in found and len(found) > 2 else ()
    if ignored:
        mask &= values != 0
    rows, cols = np.nonzero(mask)
    x, y = (cols + 0.5) * frame.width / shape[1], (rows + 0.5) * frame.height / shape[0]
    a, b, c, d, e, f = frame.transform[:6]
    where = _block_of(*to_crs(frame.crs, grid.crs, a * x + b * y + c, d * x + e * y + f), grid, blocks)
    numbers, index = np.unique(values[mask], return_inverse=True)
    # A label pixel counts as many samples as it covers pixels of the grid.
    size = step**2 * frame.pixel_area(grid.crs) / grid.resolution**2
    counted = _count([label_key(number) for number in numbers], index, np.full(len(index), size), where)
    return Labels(path, None, "raster", *counted, whole, ignored)


def _ground_of(grid: Grid) -> Any:
    """Draw the grid's outline (shapely), in degrees once for every turn around the globe by which labels may be off."""
    import shapely

    left, bottom, right, top = grid.bounds
    turns = (-360.0, 0.0, 360.0) if is_geographic(grid.crs) else (0.0,)
    return shapely.union_all([shapely.box(left + turn, bottom, right + turn, top) for turn in turns])


def _block_of(xs: np.ndarray, ys: np.ndarray, grid: Grid, blocks: Blocks) -> np.ndarray:
    """Find the number of every point's block, -1 beyond the grid; points in the grid's CRS, or a turn beside it."""
    if is_geographic(grid.crs):
        middle = (grid.bounds[0] + grid.bounds[2]) / 2
        xs = xs - 360.0 * np.round((xs - middle) / 360.0)
    col, row = (xs - grid.left) / grid.resolution, (grid.top - ys) / grid.resolution
    inside = (col >= 0) & (col < grid.width) & (row >= 0) & (row < grid.height)
    across = -(-grid.width // blocks.side)
    col, row = np.where(inside, col, 0) // blocks.side, np.where(inside, row, 0) // blocks.side
    return np.asarray(np.where(inside, row * across + col, -1)).astype(np.int64)


def _count(names: Sequence[str], index: np.ndarray, sizes: np.ndarray, where: np.ndarray) -> Counted:
    """Count samples and blocks of every class on the grid, from the class and the block of each label."""
    inside = where >= 0
    samples = np.bincount(index[inside], weights=sizes[inside], minlength=len(names))
    blocks = int(where.max(initial=0)) + 1
    held = np.bincount(np.unique(index[inside] * blocks + where[inside]) // blocks, minlength=len(names))
    classes = [Found(n, max(1, round(s)), int(b)) for n, s, b in zip(names, samples, held, strict=True) if b]
    return tuple(sorted(classes, key=lambda c: _by_number(c.value))), int(inside.sum()), len(index)


def judge(labels: Labels) -> list[str]:
    """Say what the labels are and what is wrong with them."""
    unit = "pixels" if labels.kind == "raster" else labels.kind
    notes = [f"Labels: {labels.inside} {unit} of {len(labels.classes)} classes on the grid."]
    if labels.outside:
        notes.append(
            f"Check: {labels.outside} of {labels.total} {unit} of {labels.path.name} "
            f"({labels.outside / labels.total:.0%}) "
            "lie outside the scenes and are not used."
        )
    for found in labels.classes:
        if found in too_small(labels):
            notes.append(
                f"Check: {found.name} stands in {found.blocks} of the ground blocks, too few to be in training, "
                "validation and test; it is dropped in the config: merge it with another class or add labels."
            )
        elif found.blocks < FEW_BLOCKS:
            notes.append(
                f"Check: {found.name} stands in {found.blocks} of the ground blocks, too few to be in training, "
                "validation and test; add labels or make label.block smaller."
            )
        elif found.samples < FEW_SAMPLES:
            notes.append(
                f"Check: {found.name} has {found.samples} samples, too few to learn from; merge it with another class, "
                "drop it or add labels."
            )
    if labels.ignored:
        notes.append(
            f"Check: 0 is taken for unlabelled ground (label.ignore), as {labels.path.name} names no nodata value; "
            "if it is a class, list it under classes instead."
        )
    elif labels.whole and any(found.value == "0" for found in labels.classes):
        notes.append(f"Check: 0 is taken for a class, though {labels.path.name} names no nodata value; is it one?")
    return notes


def too_small(labels: Labels) -> tuple[Found, ...]:
    """List the classes that no split can hold; none where fewer than two would be left."""
    small = tuple(found for found in labels.classes if found.blocks < FEW_BLOCKS)
    return small if len(labels.classes) - len(small) >= 2 else ()


# --- text ------------------------------------------------------------------------------------------------------------


def _grid_section(grid: Grid) -> list[str]:
    return [
        "grid:",
        f"  crs: {json.dumps(grid.crs)}",
        f"  resolution: {grid.resolution!r}   # units of the CRS; that of the finest scene",
        "  origin: snapped   # to multiples of the resolution; native keeps the finest scene's own pixels",
        "  tile: 256   # pixels",
        "",
    ]


def _classes_section(labels: Labels) -> list[str]:
    """Write a line a class; those that no split can hold as comments."""
    codes = _codes([found.value for found in labels.classes])
    colors = colors_for([found.name for found in labels.classes])
    unit = "points" if labels.kind == "points" else "label pixels"
    lines = ["classes:   # labels: the values merged into the class; code: its value in the map"]
    for found, code, color in zip(labels.classes, codes, colors, strict=True):
        entry = (
            f"{{name: {json.dumps(found.name, ensure_ascii=False)}, labels: [{_value(found.value)}], "
            f"code: {code}, color: {json.dumps(color)}}}   # {found.samples} {unit} in {found.blocks} blocks"
        )
        lines.append(f"  # - {entry}: too few blocks" if found in too_small(labels) else f"  - {entry}")
    return [*lines, ""]


def _codes(values: list[str]) -> list[int]:
    """Keep the labels' own numbers as codes where all of them fit a byte, otherwise count from 1."""
    if all(value.isdigit() and int(value) <= MAX_CLASSES for value in values):
        return [int(value) for value in values]
    return list(range(1, len(values) + 1))


def _ingest_text(section: dict[str, Any], table: Scenes) -> list[str]:
    """Write the ingest section, with what the headers say as comments."""
    lines = ["ingest:", "  scenes:"]
    for entry in section["scenes"]:
        lines.append(f"    - files: {json.dumps(entry['files'], ensure_ascii=False)}")
        dates = [date for date in table.dates if date]
        shown = ", ".join(dates[:3]) + (f" ... {dates[-1]}" if len(dates) > 3 else "")
        lines.append(f"      # dates: {shown}" if dates else "      # date: 2024-06-01   # no date was found")
        values = {value for source in table.sources for value in source.nodata}
        known = ", ".join(f"{value:g}" for value in sorted(v for v in values if v is not None)) or "none"
        lines.append(f"      # nodata in the headers: {known}; `nodata: VALUE` here overrides it")
        if any(s != 1 for source in table.sources for s in source.scale) or any(any(s.offset) for s in table.sources):
            lines.append(
                "      # the headers' scale and offset are applied; `scale: 1` and `offset: 0` here switch that off"
            )
    what = "band: its variable" if any(source.variables for source in table.sources) else "band: its number in the file"
    if "{band}" in section["scenes"][0]["files"]:
        what = "band: what stands for {band}"
    lines.append(f"  bands:   # {what}")
    lines += [f"    {_value(band)}: {_value(token)}" for band, token in section["bands"].items()]
    if "quality" in section:
        lines.append(
            f"  quality: {_value(section['quality'])}   # says which pixels are clear; no channel of the model"
        )
    return [*lines, ""]


def _tile_section(table: Scenes) -> list[str]:
    """Write which dates are mapped: a scene that arrives later replaces a single one and keeps the model's inputs."""
    dates = "all" if len(table.dates) > 1 else "latest"
    lines = ["tile:", f"  dates: {dates}   # latest maps the newest date; all makes every date an input of the model"]
    if table.quality:
        lines.append("  mask: {dilate: 100}   # metres kept from clouds and their shadows")
    if is_series(table):
        lines += [
            "  time:",
            f"    step: {_step(table)}   # 10 days, 1 month ...; none: the dates as acquired",
            "    statistic: median   # of the clear observations of a step",
            "    fill: linear   # of steps without a clear observation",
            "  # indices: [NDVI]   # needs scale and offset, and bands called red, nir ... (or index_bands)",
        ]
    return [*lines, ""]


def is_series(table: Scenes) -> bool:
    """Tell whether scenes are a series in time rather than a few dates."""
    return len([date for date in table.dates if len(date) == len("2024-06-01")]) >= SERIES


def _step(table: Scenes) -> str:
    """Choose monthly steps where there are several months."""
    days = [day_of(date, since=table.dates[0]) for date in table.dates if date]
    return "1 month" if days[-1] - days[0] > MONTHLY_DAYS else "none"


def _train_section(table: Scenes) -> list[str]:
    """Write which classifiers are trained."""
    if not is_series(table):
        return ["train:", f"  models: {MODELS}   # all are trained; the best on validation makes the map", ""]
    return [
        "train:",
        f"  models: {SERIES_MODELS}   # all are trained; the best on validation makes the map",
        "  rf: {windows: [3]}   # means and deviations of so many pixels around; every date has its own",
        "  svm: {windows: [3]}",
        "",
    ]


def _label_section(root: Path, labels: Labels, blocks: Blocks) -> list[str]:
    """Write the label section."""
    dropped = [found.value for found in too_small(labels)]
    lines = ["label:", f"  file: {json.dumps(relative(root, labels.path), ensure_ascii=False)}"]
    if labels.field is not None:
        lines.append(f"  field: {json.dumps(labels.field, ensure_ascii=False)}   # column of the class")
    lines += [
        f"  block: {blocks.metres:.4g}   # metres: side of the ground blocks, {blocks.side} pixels",
        f"  buffer: {min(200.0, blocks.metres / 8):.4g}   # metres: training labels keep away from held-out blocks",
    ]
    if dropped:
        values = ", ".join(_value(value) for value in dropped)
        lines.append(
            f"  drop: [{values}]   # in too few blocks: a pixel of these counts as an error in a second accuracy"
        )
    else:
        lines.append("  # drop: []   # values that are not mapped")
    if labels.ignored:
        lines.append(
            f"  ignore: [{', '.join(_value(value) for value in labels.ignored)}]   # no label: the file names no nodata"
        )
    return [*lines, ""]


def _given_section() -> list[str]:
    return [
        "# No labels were given: name a model that was trained elsewhere, or add `classes` and `label`.",
        "# given:",
        "#   model: path/to/data/area/model/unet",
        "",
    ]


def relative(root: Path, path: Path) -> str:
    """Write a path below ``root`` relative to it, any other as it is."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _hectares(grid: Grid) -> float:
    middle = grid.height // 2
    return float(grid.pixel_hectares(middle, middle + 1)[0])


def _value(value: str | int) -> str:
    """Write a value for YAML: numbers as they are, texts in quotes where they need them."""
    if isinstance(value, int) or _is_number(value):
        return str(value) if isinstance(value, int) or str(value) == _plain(value) else json.dumps(value)
    return (
        value
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value) and value.lower() not in _WORDS
        else json.dumps(value, ensure_ascii=False)
    )


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def _plain(value: str) -> str:
    return str(int(value)) if value.lstrip("-").isdigit() else value


def _is_number(value: str) -> bool:
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", value))


def _by_number(value: str) -> tuple[float, str]:
    """Sort key: numbers and numbered names by number, B2 before B10 and B8A after B8."""
    match = re.search(r"\d+", value)
    return (float(value) if _is_number(value) else float(match[0]) if match else math.inf, value)
