"""L1 and L2: division by a norm, and penalties."""
