"""Local style from text without an expert: masked CLIP optimisation (LEAST, arXiv:2405.16330, section 3.2)."""
