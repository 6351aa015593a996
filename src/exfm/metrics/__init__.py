"""How good predicted probabilities are, and the intervals of such figures."""
