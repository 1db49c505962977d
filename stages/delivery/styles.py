"""Write the legend as a QGIS style (QML) for the raster and for the polygons."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from stages.delivery.legend import Legend, rgb

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"


def qgis_style(legend: Legend) -> str:
    """One QML document for both layers: QGIS reads `pipe` for a raster and `renderer-v2` for polygons.

    It has to serve both, because QGIS looks for the style of `classes.tif` and of `classes.gpkg` in one file,
    `classes.qml`.
    """
    return "\n".join(
        [
            _HEAD,
            '<qgis version="3.22.0" styleCategories="Symbology">',
            *_raster(legend),
            *_polygons(legend),
            "  <layerGeometryType>2</layerGeometryType>",
            "</qgis>",
            "",
        ]
    )


def _raster(legend: Legend) -> list[str]:
    entries = [
        f'        <paletteEntry value="{entry.code}" color="{entry.color}" alpha="255" label={quoteattr(entry.name)}/>'
        for entry in legend
    ]
    return [
        "  <pipe>",
        '    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">',
        "      <rasterTransparency/>",
        "      <colorPalette>",
        *entries,
        "      </colorPalette>",
        "    </rasterrenderer>",
        '    <brightnesscontrast brightness="0" contrast="0" gamma="1"/>',
        '    <huesaturation saturation="0" colorizeOn="0" grayscaleMode="0"/>',
        '    <rasterresampler maxOversampling="2"/>',
        "  </pipe>",
    ]


def _polygons(legend: Legend) -> list[str]:
    categories = [
        f'      <category render="true" type="long" value="{entry.code}" symbol="{i}" label={quoteattr(entry.name)}/>'
        for i, entry in enumerate(legend)
    ]
    return [
        '  <renderer-v2 type="categorizedSymbol" attr="code" enableorderby="0" forceraster="0" symbollevels="0">',
        "    <categories>",
        *categories,
        "    </categories>",
        "    <symbols>",
        *[line for i, entry in enumerate(legend) for line in _fill(i, rgb(entry))],
        "    </symbols>",
        "  </renderer-v2>",
    ]


def _fill(number: int, color: tuple[int, int, int]) -> list[str]:
    value = ",".join(map(str, (*color, 255)))
    return [
        f'      <symbol type="fill" name="{number}" alpha="1" clip_to_extent="1" force_rhr="0">',
        '        <layer class="SimpleFill" enabled="1" locked="0" pass="0">',
        '          <Option type="Map">',
        f'            <Option name="color" type="QString" value="{value}"/>',
        '            <Option name="style" type="QString" value="solid"/>',
        '            <Option name="outline_style" type="QString" value="no"/>',
        "          </Option>",
        "        </layer>",
        "      </symbol>",
    ]
