"""Messages between nodes: batched by priority, framed, checked on arrival. Pure; time is an argument."""
