"""The noise predictor: one call for every network that removes noise, whatever it was trained to predict."""
