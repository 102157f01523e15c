"""Thresholds between honest and cheating work, measured on this machine."""
