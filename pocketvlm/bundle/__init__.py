"""Bundles on disk: the manifest, the archive, what may be opened and what is refused."""
