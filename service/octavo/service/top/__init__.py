"""What `octavo top` shows: the pods of a gateway, or a single one, as they are now."""
