"""Networks of other codes, written a second time to compare with: one function each."""
