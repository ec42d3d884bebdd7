"""A device: records events in a small durable store, publishes matches at once and history until it is acked."""
