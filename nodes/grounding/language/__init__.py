"""From a sentence to requests: which thing gets which style."""
