"""Examples in memory or on disk, on one device, several devices or processes."""
