"""The mechanisms every system shares: host, noise predictor, adapters, attention tap, regions."""
