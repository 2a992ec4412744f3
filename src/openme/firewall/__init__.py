"""One module per firewall behind the protocol in `base`."""
