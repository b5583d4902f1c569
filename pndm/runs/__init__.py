"""One run: sample what is missing, measure, and leave a record."""
