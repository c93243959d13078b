"""What 4 bits do to each part of a decoder whose layers are of several kinds."""
