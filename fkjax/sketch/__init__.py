"""Random projections: from D numbers of a Fisher vector to K."""
