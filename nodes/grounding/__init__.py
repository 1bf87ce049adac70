"""Grounding: from words to the place in the picture they mean (LEAST section 3.1)."""
