"""What ``pocketvlm bench`` consists of."""
