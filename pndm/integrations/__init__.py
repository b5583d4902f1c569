"""The methods where people already work; each module needs an extra of its own."""
