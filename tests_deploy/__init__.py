"""The test of the deployment: `make test-deploy`. `__main__` is the list of its steps."""
