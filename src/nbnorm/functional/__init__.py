"""Public functions: check the arguments, allocate, choose a kernel, return."""

# First of all, for threads that import at the same time. `import nbnorm.kernels.activations` locks
# that module and then the package, `import nbnorm.kernels` the other way round: where the two meet,
# Python hands one of them a module that is half imported.
import nbnorm.kernels  # noqa: F401
