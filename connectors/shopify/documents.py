"""The GraphQL documents that are sent to Shopify, for Admin API 2026-10.

Tests validate them against the simulator's schema, whose types are a subset of Shopify's own.
"""

from __future__ import annotations

from gql import gql

API_VERSION = "2026-10"
"""Stable since 2026-10-01: ``@idempotent`` and ``changeFromQuantity`` are mandatory at run time."""

ADJUST = gql("""
mutation Adjust($key: String!, $input: InventoryAdjustQuantitiesInput!) {
  inventoryAdjustQuantities(input: $input) @idempotent(key: $key) {
    userErrors { code field message }
  }
}
""")

SET = gql("""
mutation Set($key: String!, $input: InventorySetQuantitiesInput!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    userErrors { code field message }
  }
}
""")

ACTIVATE = gql("""
mutation Activate($key: String!, $item: ID!, $location: ID!) {
  inventoryActivate(inventoryItemId: $item, locationId: $location) @idempotent(key: $key) {
    userErrors { field message }
  }
}
""")

LEVELS = gql("""
query Levels($items: [ID!]!, $location: ID!) {
  nodes(ids: $items) {
    ... on InventoryItem {
      id
      tracked
      inventoryLevel(locationId: $location, includeInactive: true) {
        isActive
        updatedAt
        quantities(names: ["available", "committed"]) { name quantity updatedAt }
      }
    }
  }
}
""")

CLOCK = gql("query Clock { shop { id } }")
"""Asked for the `Date` header of its answer."""

CATALOG_BULK = """
{
  inventoryItems {
    edges {
      node {
        id
        sku
        tracked
        variants { edges { node { id } } }
        inventoryLevels(includeInactive: true) {
          edges {
            node {
              id
              isActive
              location { id isActive }
              quantities(names: [
                "available", "committed", "reserved", "damaged", "safety_stock", "quality_control"
              ]) { name quantity }
            }
          }
        }
      }
    }
  }
}
"""
"""Run as a bulk operation: every inventory item with its variants and its levels."""

ITEM_IDS_BULK = "{ inventoryItems { edges { node { id } } } }"
"""Run as a bulk operation: which inventory items there are."""

OPEN_ORDERS_BULK = """
{ orders(query: "status:open") { edges { node { id displayFulfillmentStatus } } } }
"""
"""Run as a bulk operation: the orders that may hold units. `read_orders` shows those of the last 60 days."""

ITEMS = gql("""
query Items($items: [ID!]!, $levels: Int!) {
  nodes(ids: $items) {
    ... on InventoryItem {
      id
      sku
      tracked
      variants(first: 5) { nodes { id } }
      inventoryLevels(first: $levels, includeInactive: true) {
        nodes {
          isActive
          location { id isActive }
          quantities(names: [
            "available", "committed", "reserved", "damaged", "safety_stock", "quality_control"
          ]) { name quantity }
        }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")

ITEM_LEVELS = gql("""
query ItemLevels($item: ID!, $first: Int!, $after: String) {
  inventoryItem(id: $item) {
    inventoryLevels(first: $first, after: $after, includeInactive: true) {
      nodes {
        isActive
        location { id isActive }
        quantities(names: [
          "available", "committed", "reserved", "damaged", "safety_stock", "quality_control"
        ]) { name quantity }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
}
""")

ORDER = gql("""
query Order($id: ID!, $first: Int!, $after: String) {
  order(id: $id) {
    legacyResourceId
    createdAt
    updatedAt
    cancelledAt
    test
    sourceName
    retailLocation { legacyResourceId }
    fulfillments(first: $first) { id legacyResourceId status createdAt updatedAt
      location { legacyResourceId } }
    refunds(first: $first) { id legacyResourceId createdAt updatedAt return { id } }
    lineItems(first: $first, after: $after) {
      nodes { id sku quantity currentQuantity unfulfilledQuantity
        variant { legacyResourceId inventoryItem { tracked } } }
      pageInfo { hasNextPage endCursor }
    }
  }
}
""")

FULFILLMENT_LINES = gql("""
query FulfillmentLines($id: ID!, $first: Int!, $after: String) {
  node(id: $id) {
    ... on Fulfillment {
      lines: fulfillmentLineItems(first: $first, after: $after) {
        nodes { quantity lineItem { id } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")

REFUND_LINES = gql("""
query RefundLines($id: ID!, $first: Int!, $after: String) {
  node(id: $id) {
    ... on Refund {
      lines: refundLineItems(first: $first, after: $after) {
        nodes { id quantity restockType lineItem { id } location { legacyResourceId } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")

BULK_START = gql("""
mutation BulkStart($query: String!) {
  bulkOperationRunQuery(query: $query, groupObjects: false) {
    bulkOperation { id status }
    userErrors { code field message }
  }
}
""")

BULK_POLL = gql("""
query BulkPoll($id: ID!) {
  bulkOperation(id: $id) { id status errorCode objectCount url partialDataUrl }
}
""")

BULK_CANCEL = gql("""
mutation BulkCancel($id: ID!) {
  bulkOperationCancel(id: $id) { bulkOperation { id status } userErrors { field message } }
}
""")

BULK_LEVELS = """{
  inventoryItems {
    edges { node {
      id
      inventoryLevels(includeInactive: true) {
        edges { node {
          id
          isActive
          updatedAt
          item { id tracked }
          location { id }
          quantities(names: ["available", "committed"]) { name quantity updatedAt }
        } }
      }
    } }
  }
}"""
"""The query of a bulk operation; each level names its item, because its parent's row may be anywhere."""

CHANGED_ORDERS = gql("""
query ChangedOrders($query: String!, $first: Int!, $after: String) {
  orders(query: $query, first: $first, after: $after, sortKey: UPDATED_AT) {
    nodes {
      legacyResourceId createdAt updatedAt cancelledAt
      displayFulfillmentStatus currentSubtotalLineItemsQuantity fulfillmentsCount { count }
    }
    pageInfo { hasNextPage endCursor }
  }
}
""")

SUBSCRIPTIONS = gql("""
query Subscriptions($first: Int!, $after: String) {
  webhookSubscriptions(first: $first, after: $after) {
    nodes { id topic uri format filter includeFields }
    pageInfo { hasNextPage endCursor }
  }
}
""")

SUBSCRIBE = gql("""
mutation Subscribe($topic: WebhookSubscriptionTopic!, $wanted: WebhookSubscriptionInput!) {
  webhookSubscriptionCreate(topic: $topic, webhookSubscription: $wanted) { userErrors { field message } }
}
""")

CHANGE_SUBSCRIPTION = gql("""
mutation ChangeSubscription($id: ID!, $wanted: WebhookSubscriptionInput!) {
  webhookSubscriptionUpdate(id: $id, webhookSubscription: $wanted) { userErrors { field message } }
}
""")

ACCESS = gql("""
query Access {
  shop { myshopifyDomain name }
  currentAppInstallation { accessScopes { handle } }
}
""")

LOCATIONS = gql("""
query Locations($first: Int!, $after: String) {
  locations(first: $first, after: $after, includeInactive: true, includeLegacy: true) {
    nodes { legacyResourceId name isActive }
    pageInfo { hasNextPage endCursor }
  }
}
""")

ROUTING = gql("""
query Routing($ids: [ID!]!, $orders: Int!, $lines: Int!) {
  nodes(ids: $ids) {
    ... on Order {
      legacyResourceId
      fulfillmentOrders(first: $orders) {
        nodes { id status assignedLocation { location { legacyResourceId } }
          lineItems(first: $lines) {
            nodes { totalQuantity remainingQuantity lineItem { id } }
            pageInfo { hasNextPage }
          }
        }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")
"""Fulfilment orders of several orders; what does not fit is read with the next two."""

FULFILLMENT_ORDERS = gql("""
query FulfillmentOrders($id: ID!, $first: Int!, $after: String) {
  node(id: $id) {
    ... on Order {
      lines: fulfillmentOrders(first: $first, after: $after) {
        nodes { id status assignedLocation { location { legacyResourceId } } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")

FULFILLMENT_ORDER_LINES = gql("""
query FulfillmentOrderLines($id: ID!, $first: Int!, $after: String) {
  node(id: $id) {
    ... on FulfillmentOrder {
      lines: lineItems(first: $first, after: $after) {
        nodes { totalQuantity remainingQuantity lineItem { id } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")

RETURNS = gql("""
query Returns($id: ID!, $first: Int!, $after: String) {
  node(id: $id) {
    ... on Order {
      lines: returns(first: $first, after: $after) {
        nodes { id reverseFulfillmentOrders(first: 8) { nodes { id } } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")
"""A return has one reverse fulfilment order unless goods come back in parts; more than eight are not read."""

DISPOSITIONS = gql("""
query Dispositions($id: ID!, $first: Int!, $after: String) {
  node(id: $id) {
    ... on ReverseFulfillmentOrder {
      lines: lineItems(first: $first, after: $after) {
        nodes {
          fulfillmentLineItem { lineItem { id } }
          dispositions { id type quantity createdAt location { legacyResourceId } }
        }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
""")

ORDER_OF = gql("""
query OrderOf($id: ID!) {
  node(id: $id) {
    ... on FulfillmentOrder { fulfilled: order { legacyResourceId } }
    ... on ReverseFulfillmentOrder { reversed: order { legacyResourceId } }
    ... on Return { returned: order { legacyResourceId } }
  }
}
""")
"""Which order something is about whose webhook does not say so."""
