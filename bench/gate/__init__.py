"""Whether a bundle became slower, larger or different."""
