"""What nbnorm costs and how exact it is, measured beside other libraries."""
