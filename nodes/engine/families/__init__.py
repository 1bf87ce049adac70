"""Model families: everything that is known of one kind of network, in one place each."""
