"""Where the gateway learns which pods serve which model: a fixed list, DNS, or Kubernetes."""
