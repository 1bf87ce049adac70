"""Feed-forward SMS: small networks that paint a style in one pass."""
