"""Full-size work: a network of one native size over a larger picture, in overlapping tiles fused in every step."""
