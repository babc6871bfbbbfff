"""Launchers: plan tiles, lend memory, run kernels. They take checked arguments, and never raise."""
