"""The command line ``jupyter kale``: thin over the Python API and the client. No IPython; the manager is reached by wire only."""
