"""The paper's size on this machine: export, run time, ablations, growth, each beside peers of the same shape."""
