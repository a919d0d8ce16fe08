"""The operator: InferenceModel resources in, engine pods out, as many as their load needs."""
