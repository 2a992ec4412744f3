"""Measurements for a single decision, run by hand: `.venv/bin/python -m bench.studies.NAME`."""
