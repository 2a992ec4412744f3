"""openme: Single Packet Authorization."""

__version__ = "0.1.0"
