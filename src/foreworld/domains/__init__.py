"""The medical tasks: thin domains on top of one engine. A domain never imports another domain."""
