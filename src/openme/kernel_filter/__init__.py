"""What the kernel drops of the knock port's datagrams before any process sees them: an eBPF program, made here."""
