"""Stands in for ComfyUI's front end, which no browser will ask for: a folder without a page."""
