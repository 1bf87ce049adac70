"""Regions: words, style, score and mask together, and the crop a region is worked on in."""
