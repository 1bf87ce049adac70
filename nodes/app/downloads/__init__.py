"""Public weights, one command away: the catalogue, where files belong, and fetching them."""
