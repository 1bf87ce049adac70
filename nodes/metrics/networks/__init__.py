"""The networks that measure."""
