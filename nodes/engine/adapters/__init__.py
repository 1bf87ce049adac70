"""Experts attached to a network: they act in the forward pass, gated per image and per place."""
