"""A bundle's .litertlm in Google's stock LiteRT-LM beside this runtime: text, and pictures handed over whole."""
