"""The suites of the comparison: shapes, operations, data, truth and targets, one suite a file."""
