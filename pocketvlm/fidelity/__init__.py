"""How close a bundle is to the checkpoint that it was exported from."""
