"""Classical harmonisation: the statistics of the foreground's colours become those of its background."""
