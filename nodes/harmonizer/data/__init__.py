"""Pictures with a truth: composites made from photographs, and Random Poisson Blending (R2R)."""
