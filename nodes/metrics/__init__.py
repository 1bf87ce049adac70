"""Measuring results: regional style editing score, content and style metrics, data sets."""
