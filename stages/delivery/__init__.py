"""What a map is handed over with: its legend, its QGIS style, its pictures and its report."""
