"""Words for regions: what a phrase names, which of several is meant, and what a model is told to draw there."""
