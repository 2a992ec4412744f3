"""Bytes ↔ knock. Pure: no clock, no socket, no file. What touches a stranger's bytes ends in `_untrusted`."""
