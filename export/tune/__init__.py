"""Recipes by measured sensitivity, and what an arithmetic costs."""
