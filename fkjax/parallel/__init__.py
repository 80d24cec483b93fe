"""Examples in shares: batches, rows on disk, devices, processes."""
