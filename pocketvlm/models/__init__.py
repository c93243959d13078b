"""Model families in PyTorch: one family, one file, named after its config's model_type."""
