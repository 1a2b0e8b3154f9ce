"""Changes pushed through training, and what they did to a performance."""
