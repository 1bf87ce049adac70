"""Teaching an expert where its style belongs: pairs of pictures with masks, and losses on attention."""
