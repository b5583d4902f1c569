"""The main table: FID by steps of the paper's methods, and the claims it decides."""
