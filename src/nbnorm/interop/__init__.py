"""Other libraries' files and conventions, one a module."""
