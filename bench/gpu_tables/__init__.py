"""The tables of bench/gpu.py, a file for each subject."""
