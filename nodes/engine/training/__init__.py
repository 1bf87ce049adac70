"""Training an expert in place: one loop for both hosts, and the state that it goes on from."""
