"""The life of a job, on the database: knows neither HTTP nor Celery, holds no model."""
