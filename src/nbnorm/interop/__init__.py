"""Other libraries' files and conventions, none of them a dependency."""
