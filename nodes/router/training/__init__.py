"""Training a style expert from pictures."""
