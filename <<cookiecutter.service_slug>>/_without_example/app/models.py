"""The service's own tables.

Define them here as `class Order(SQLModel, table=True)`, then write their migration with
`alembic revision --autogenerate -m "orders"`.
"""
