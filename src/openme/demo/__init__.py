"""The demo: the whole story on this machine, and the hosts in network namespaces that it happens on."""
