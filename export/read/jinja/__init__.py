"""A checkpoint's Jinja chat template: what the files say, and a process of its own that renders it."""
