"""Floor 3: what a live database holds, and the data map that a person makes of it."""
