"""Random projections of Fisher vectors, from D values to K."""
