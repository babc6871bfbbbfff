"""Launchers of convolutions: one module an algorithm."""
