"""FID and its relatives: feature extractors, reference statistics, and the metrics of a record."""
