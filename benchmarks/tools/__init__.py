"""What several commands use, and two small ones: `dashboard` and `spread`."""
