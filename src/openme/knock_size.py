"""The length of a knock, which wire, seam and firewall rules rest on alike."""

KNOCK_SIZE = 165
"""Bytes of the UDP payload, under every wire version (spec wire-v1.md, wire-v2.md): a length tells no version."""
