"""Fused versions for GPUs, written in Triton. Each is exact to what the plain torch form computes, and chosen by it."""
