from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.pump import GetCopyData

class Layout:
    def __init__(self, kinds: bytes, key: list[int]) -> None: ...

def pump(
    get_copy_data: GetCopyData, decoder: PgOutputDecoder, messages_max: int, bytes_max: int
) -> tuple[int, int, memoryview | None]: ...
