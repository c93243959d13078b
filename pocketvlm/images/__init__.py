"""Images in, tiles out, by rules that every platform has."""
