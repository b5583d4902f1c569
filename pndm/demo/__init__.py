"""Web demo: two methods sample next to each other, from the same noise."""
