"""Where what lies that belongs to a running server alone, and is gone after a boot."""

from pathlib import Path

RUN_DIR = Path("/run/openme")
