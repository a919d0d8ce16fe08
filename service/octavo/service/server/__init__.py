"""The pod's gRPC server: validates, hands requests to the engine, and streams what comes back."""
