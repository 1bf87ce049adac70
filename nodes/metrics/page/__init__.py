"""Results as tables, grids and self-contained pages."""
