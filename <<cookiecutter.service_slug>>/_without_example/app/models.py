"""The service's own tables.

Define them here as `class Order(SQLModel, table=True)`, with the `SQLModel` of
`jetstream_bridge.core.naming`, then write their migration with
`alembic revision --autogenerate -m "orders"`.
"""
