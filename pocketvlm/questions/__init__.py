"""Questions with known answers, drawn or read from files: what a bundle is judged by and a recipe calibrated on."""
