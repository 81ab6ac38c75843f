"""What the report says below the tables and figures of blotching runs."""

CAPTIONS = {}
