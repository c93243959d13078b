"""How often answers are right, and how far numbers are from the original's."""
