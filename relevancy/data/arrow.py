"""pyarrow, which reading and writing tables needs; the extra `export` brings it."""

from relevancy.errors import RelevancyError

try:
    import pyarrow as pa
except ImportError as error:
    raise RelevancyError("Tables need pyarrow: pip install 'relevancy[export]'.") from error

__all__ = ["pa"]
