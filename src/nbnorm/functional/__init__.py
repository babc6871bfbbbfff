"""Public functions: check the arguments, allocate, choose a kernel, return."""
