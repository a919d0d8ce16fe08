"""What every gRPC server of ours does with requests and errors: strict parsing, statuses with details."""
