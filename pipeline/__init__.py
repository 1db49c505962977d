"""How it is run: cli, runner, graph; config, artifacts, cluster and batch beside them."""

__version__ = "0.1.0"
