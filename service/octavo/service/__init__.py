"""The pod's gRPC server, its clients, and the `octavo` command."""
