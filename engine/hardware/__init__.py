"""Models of latency, utilisation and energy of a device, behind one contract."""
