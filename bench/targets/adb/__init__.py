"""A phone behind adb: what it says, what lies on it, and the runner there. ``bench.targets.adb`` measures with it."""
