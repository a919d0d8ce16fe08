"""What the gateway needs of a Kubernetes API server: lists that are kept up to date, and one status field."""
