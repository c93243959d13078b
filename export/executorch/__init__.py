"""The ExecuTorch back end: one program (.pte) for a phone's CPU."""
