"""Published models' sizes with random weights: exported, run, and beside llama.cpp's mtmd on the same weights."""
