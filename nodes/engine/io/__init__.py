"""Pictures, tensors and weights in and out."""
