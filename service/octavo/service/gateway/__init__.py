"""The gateway: one address for all models, and for each request the pod that can answer it soonest."""
