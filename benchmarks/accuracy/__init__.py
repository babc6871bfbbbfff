"""How exact every function is on hard data, nbnorm beside other libraries."""
