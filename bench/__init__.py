"""Measuring bundles: host and phone, baseline beside candidate. Nothing is here yet."""
