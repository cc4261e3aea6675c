"""Shopify: the client, the GraphQL documents, webhooks and the simulator."""
