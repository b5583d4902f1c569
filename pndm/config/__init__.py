"""The command line: typed configurations, composed by Hydra and validated before anything runs."""
