"""The test of the deployment: `make test-deploy`. `steps` is what it shows."""
