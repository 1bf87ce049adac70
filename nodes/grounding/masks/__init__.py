"""Masks made better, combined, drawn and saved."""
