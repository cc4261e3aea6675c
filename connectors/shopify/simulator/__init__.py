"""A strict stand-in for Shopify: Admin GraphQL over HTTP, signed webhooks, shoppers and faults."""
