"""What an answer costs: time, memory, and what binds it."""
