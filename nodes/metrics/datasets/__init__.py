"""The papers' data sets in their published layouts, and the figures that were published with them."""
