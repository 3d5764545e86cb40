# This folder is a package to Cython, which takes the full names of the modules from it: commops._native and so on.
