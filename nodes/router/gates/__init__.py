"""Gates: which expert acts where, from regions, from prompts, or learnt."""
