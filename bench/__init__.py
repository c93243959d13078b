"""Measuring bundles: how often they are right, and what an answer costs."""
