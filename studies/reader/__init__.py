"""The built-in model: a small vision-language model that reads lines of digits and capitals, and how it was made."""
