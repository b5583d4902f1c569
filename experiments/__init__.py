"""The paper's tables and figures, one module for each; `results/` holds the generated files."""
