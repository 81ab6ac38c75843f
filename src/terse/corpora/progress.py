"""Progress of reading a corpus."""

from terse.machine.progress import Progress


class DocumentProgress(Progress):
    """Counts documents and their UTF-8 bytes."""

    def __init__(self, what: str) -> None:
        super().__init__(what, unit="B", unit_scale=True)
        self.documents = self.bytes = 0

    def add(self, documents: int, n_bytes: int) -> None:
        """Count more documents."""
        self.documents += documents
        self.bytes += n_bytes
        self.advance(n_bytes)

    def line(self) -> str:
        """Return documents, megabytes and megabytes per second."""
        size = self.bytes / 1e6
        rate = size / self.elapsed_s
        return f"{self.what}: {self.documents} documents, {size:.1f} MB, {rate:.1f} MB/s"
