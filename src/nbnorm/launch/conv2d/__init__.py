"""Launchers of convolutions: one module an algorithm, and algorithms.py, which chooses."""
