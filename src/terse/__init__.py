"""How few tokens, codes and dimensions does a language model need?"""

__version__ = "0.1.0"
