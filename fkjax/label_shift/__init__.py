"""How biased a pool is: class shares without labels, and their intervals."""
