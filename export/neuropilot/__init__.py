"""The back end for MediaTek's NPUs."""
