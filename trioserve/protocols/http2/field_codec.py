"""Field compression of HTTP/2 (HPACK, RFC 7541): the two halves that an `h2` connection is given for its own.

The tables, the Huffman code and the errors are hpack's; the loops are ours, for what a connection says again and
again: the decoder remembers whole blocks, the encoder whole fields. Not here: whether a field is acceptable;
that is judged above. Invariants: a remembered block is forgotten as soon as the dynamic table changes; the encoder
only inserts what fits, so that nothing is evicted unless the peer shrinks the table; nothing that is remembered
across connections can be seen on the wire, and no secret is remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hpack import (
    Decoder,
    Encoder,
    HeaderTuple,
    HPACKDecodingError,
    NeverIndexedHeaderTuple,
    OversizedHeaderListError,
)
from hpack.exceptions import InvalidTableSizeError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable, table_entry_size

if TYPE_CHECKING:
    from collections.abc import Iterable

Field = tuple[bytes, bytes]

MAX_TABLE_SIZE: Final = 4096  # of the encoder's dynamic table, also where the peer allows more
MEMO_BLOCKS: Final = 64  # of the decoder, per connection
MEMO_SIZE: Final = 32768  # bytes of all remembered blocks, as the size of a list is counted
MEMO_LITERALS: Final = 1024  # of the encoder, per process
MEMO_LITERAL: Final = 128  # bytes of name and value
MEMO_STEPS: Final = 8192  # of Huffman decoding, per process
SEEN_FIELDS: Final = 64  # of the encoder, per connection
LONGEST_CODED: Final = 1024  # longer strings are sent as they are: the code saves a fifth, and costs time

# RFC 7541 section 7.1.3: nobody on the way may put these into a table, where they could be guessed.
SECRET: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"})
# The values of these differ from one response to the next, so they would fill the table and help nobody.
FLEETING: Final = frozenset(
    {b"age", b"content-length", b"content-location", b"content-range", b"date", b"etag", b"expires"}
    | {b"last-modified", b"link", b"location", b"retry-after", b"server-timing", b"x-request-id"}
)

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)  # indexes start at 1
_FIRST_DYNAMIC: Final = len(_STATIC)
_LONGEST_INTEGER: Final = 5  # bytes after the prefix: 2**32 and more, which is beyond every limit
_BITS: Final = [f"{code:0{bits}b}" for code, bits in zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)]
_NAMES: Final = {name: first for name, (first, _) in HeaderTable.STATIC_TABLE_MAPPING.items()}
_INDEXED: Final = {field: bytes([0x80 | index]) for index, field in enumerate(_STATIC) if index}


class FieldDecoder(Decoder):
    """Decodes the field blocks of one connection, and keeps the fields to itself.

    `h2` gets an empty tuple from `decode`, because the machine above judges the fields, once, and takes them
    from here as soon as h2 reports the event of the block. h2's own checks of inbound fields have to be
    switched off.

    Args:
        max_header_list_size: bytes of a list of fields, as RFC 9113 section 6.5.2 counts them (32 more for each
            field), and of a block on the wire.

    Attributes:
        fields: what the last block said; empty when it could not be decoded. It belongs to whoever takes it.
        size: of these fields, in bytes as RFC 9113 section 6.5.2 counts them.
    """

    def __init__(self, max_header_list_size: int = 65536) -> None:
        super().__init__(max_header_list_size)
        self.fields: list[Field] = []
        self.size = 0
        self._memo: dict[bytes, tuple[tuple[Field, ...], int]] = {}
        self._memo_size = 0

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # noqa: ARG002 - as hpack has it
        """Decode one whole block into `fields` and `size`.

        Args:
            data: the block, its CONTINUATION frames joined.
            raw: ignored; fields are bytes.

        Returns:
            Nothing, for h2 shall not look at the fields.

        Raises:
            hpack.OversizedHeaderListError: the list, or the block, is larger than `max_header_list_size`.
            hpack.HPACKDecodingError: RFC 7541 does not allow this block, or it ends early. This and the error
                above leave the table in the middle of a block: the connection cannot go on.
        """
        known = self._memo.get(data)
        if known is not None and self._within_limits(known[1]):
            self.fields = list(known[0])
            self.size = known[1]
            return ()
        self.fields = []
        self.size = 0
        # Only a Huffman code that is longer than its string makes a block larger than the list that it says.
        if len(data) > self.max_header_list_size:
            raise OversizedHeaderListError(f"a block of more than {self.max_header_list_size} bytes")
        fields, size, steady = self._decode_block(data)
        if self.header_table_size > self.max_allowed_table_size:  # RFC 7541 section 4.2
            raise InvalidTableSizeError("the table was not shrunk to what is allowed")
        if steady:
            self._remember(data, tuple(fields), size)
        self.fields = fields
        self.size = size
        return ()

    def _within_limits(self, size: int) -> bool:
        return size <= self.max_header_list_size and self.header_table_size <= self.max_allowed_table_size

    def _remember(self, data: bytes, fields: tuple[Field, ...], size: int) -> None:
        self._memo_size += size
        if self._memo_size > MEMO_SIZE or len(self._memo) >= MEMO_BLOCKS:
            self._memo.clear()
            self._memo_size = size
        if size <= MEMO_SIZE:
            self._memo[data] = (fields, size)

    def _decode_block(self, data: bytes) -> tuple[list[Field], int, bool]:
        """Return the fields, their size, and whether the block left the dynamic table as it was."""
        table = self.header_table
        limit = self.max_header_list_size
        fields: list[Field] = []
        size = 0
        steady = True
        position = 0
        end = len(data)
        while position < end:
            first = data[position]
            if first >= 0x80:  # RFC 7541 section 6.1: an indexed field
                index = first & 0x7F
                position += 1
                if index == 0x7F:
                    index, position = _read_integer(data, position - 1, 0x7F)
                field = _STATIC[index] if 0 < index < _FIRST_DYNAMIC else table.get_by_index(index)
            elif 0x20 <= first < 0x40:  # section 6.3: a new size of the table
                if fields:
                    raise HPACKDecodingError("a table size update after a field")
                self._forget()
                steady = False
                position = self._resize(data, position)
                continue
            else:  # sections 6.2.1 (to be inserted), 6.2.2 and 6.2.3
                name = b""
                index, position = _read_integer(data, position, 0x3F if first >= 0x40 else 0x0F)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, position = _read_string(data, position)
                value, position = _read_string(data, position)
                field = (name, value)
                if first >= 0x40:
                    self._forget()
                    steady = False
                    table.add(name, value)
            fields.append(field)
            size += 32 + len(field[0]) + len(field[1])
            if size > limit:
                raise OversizedHeaderListError(f"a list of more than {limit} bytes")
        return fields, size, steady

    def _resize(self, data: bytes, position: int) -> int:
        size, position = _read_integer(data, position, 0x1F)
        if size > self.max_allowed_table_size:
            raise InvalidTableSizeError("a table larger than is allowed")
        self.header_table_size = size
        return position

    def _forget(self) -> None:
        self._memo.clear()
        self._memo_size = 0


class FieldEncoder(Encoder):
    """Encodes the field blocks of one connection.

    A field that is said a second time is inserted into the dynamic table while there is room, and stays: from
    then on it is a byte or two. Other fields are literals without indexing, which read the same on every
    connection and are therefore remembered per process. Secrets, and what comes as
    `hpack.NeverIndexedHeaderTuple`, are literals that nobody on the way may index.
    """

    def __init__(self) -> None:
        super().__init__()
        self._codes: dict[Field, bytes] = {}  # of what the dynamic table holds
        self._seen: set[int] = set()  # hashes of fields; a collision inserts a field early, no more
        self._free = self._announced = self._smallest = self.header_table.maxsize
        self._resized = False

    @property
    def header_table_size(self) -> int:
        """Bytes that the dynamic table may hold: what the peer allows, and 4096 at most."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, MAX_TABLE_SIZE)
        self.header_table.maxsize = size  # evicts the oldest entries
        self._smallest = min(self._smallest, size)
        self._resized = not self._announced == self._smallest == size
        self._index_anew()

    def encode(self, headers: Iterable[Field], huffman: bool = True) -> bytes:  # type: ignore[override] # noqa: ARG002
        """Encode one block.

        Args:
            headers: the fields in order, bytes, names in lower case; nothing is checked here.
            huffman: ignored; strings are Huffman-coded where that is shorter.
        """
        block = self._size_updates() if self._resized else []
        constant = _constant.get
        for field in headers:
            code = self._codes.get(field) or constant(field)
            if code is None or type(field) is NeverIndexedHeaderTuple:
                code = self._encode_other(field)
            block.append(code)
        return b"".join(block)

    def _size_updates(self) -> list[bytes]:
        """Say the smallest size since the last block, and the present one (RFC 7541 section 4.2)."""
        size = self.header_table.maxsize
        updates = [_integer(0x20, 0x1F, size)]
        if self._smallest < min(self._announced, size):
            updates.insert(0, _integer(0x20, 0x1F, self._smallest))
        self._announced = self._smallest = size
        self._resized = False
        return updates

    def _encode_other(self, field: Field) -> bytes:
        name, value = field
        if name in SECRET or type(field) is NeverIndexedHeaderTuple:
            return _literal(0x10, 0x0F, field)
        if name in FLEETING:
            return _remembered(_constant, field)
        if table_entry_size(name, value) <= self._free:
            mark = hash(field)
            if mark in self._seen:
                self._seen.remove(mark)
                self.header_table.add(name, value)
                self._index_anew()
                return _literal(0x40, 0x3F, field)
            if len(self._seen) >= SEEN_FIELDS:
                self._seen.clear()
            self._seen.add(mark)
        return _remembered(_literals, field)

    def _index_anew(self) -> None:
        """Every insertion moves all older entries by one (RFC 7541 section 2.3.3)."""
        entries = self.header_table.dynamic_entries
        self._codes = {
            field: _integer(0x80, 0x7F, index) for index, field in enumerate(entries, _FIRST_DYNAMIC)
        }
        self._free = self.header_table.maxsize - sum(table_entry_size(*field) for field in entries)


# Codes that are the same on every connection: of the static table and of fleeting fields; and of fields that
# may also be in a dynamic table.
_constant: Final = dict(_INDEXED)
_literals: Final[dict[Field, bytes]] = {}


def _remembered(memo: dict[Field, bytes], field: Field) -> bytes:
    """Return the literal without indexing (RFC 7541 section 6.2.2) of a field that is no secret."""
    code = memo.get(field)
    if code is None:
        code = _literal(0x00, 0x0F, field)
        if len(field[0]) + len(field[1]) <= MEMO_LITERAL:
            if len(memo) >= MEMO_LITERALS:
                memo.clear()
                if memo is _constant:
                    memo.update(_INDEXED)
            memo[field] = code
    return code


def _literal(pattern: int, mask: int, field: Field) -> bytes:
    name, value = field
    index = _NAMES.get(name)
    if index is not None:
        return _integer(pattern, mask, index) + _string(value)
    return bytes((pattern,)) + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    """Encode a string (RFC 7541 section 5.2), with the Huffman code where that is shorter."""
    if len(value) <= LONGEST_CODED:
        bits = "".join([_BITS[byte] for byte in value])
        length = (len(bits) + 7) // 8
        if length < len(value):
            padded = bits.ljust(length * 8, "1")
            return _integer(0x80, 0x7F, length) + int(padded, 2).to_bytes(length, "big")
    return _integer(0x00, 0x7F, len(value)) + value


def _integer(pattern: int, mask: int, value: int) -> bytes:
    """Encode an integer (RFC 7541 section 5.1) behind the bits of `pattern`; `mask` is its prefix, all ones."""
    if value < mask:
        return bytes((pattern | value,))
    code = bytearray((pattern | mask,))
    value -= mask
    while value >= 0x80:
        code.append(value & 0x7F | 0x80)
        value >>= 7
    code.append(value)
    return bytes(code)


def _read_integer(data: bytes, position: int, mask: int) -> tuple[int, int]:
    """Return the integer (RFC 7541 section 5.1) that starts at `position`, and where it ends."""
    value = data[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 7 * _LONGEST_INTEGER, 7):
        if position >= len(data):
            raise HPACKDecodingError("a block that ends within an integer")
        byte = data[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise HPACKDecodingError("an integer of too many bytes")


def _read_string(data: bytes, position: int) -> tuple[bytes, int]:
    """Return the string (RFC 7541 section 5.2) that starts at `position`, and where it ends."""
    if position >= len(data):
        raise HPACKDecodingError("a block that ends within a field")
    coded = data[position] >= 0x80
    length, position = _read_integer(data, position, 0x7F)
    end = position + length
    if end > len(data):
        raise HPACKDecodingError("a block that ends within a string")
    value = data[position:end]
    return (_decode_huffman(value) if coded else value), end


# hpack's automaton takes half a byte a step; here a step is a byte, and remembered: state << 8 | byte leads to the
# next state << 8 and the symbols that it completes. Text needs some hundreds of the 65536.
_steps: Final[dict[int, tuple[int, bytes]]] = {}
_COMPLETE: Final = frozenset(
    {0} | {state << 8 for state, flags, _ in HUFFMAN_TABLE if flags & HUFFMAN_COMPLETE}
)
_WRONG: Final = b"EOS"  # no byte completes more than two symbols


def _decode_huffman(data: bytes) -> bytes:
    known = _steps.get
    state = 0
    parts = []
    for byte in data:
        state, symbols = known(state | byte) or _step(state | byte)
        parts.append(symbols)
    if state not in _COMPLETE or _WRONG in parts:  # RFC 7541 section 5.2: EOS, or another padding than ones
        raise HPACKDecodingError("a string that is not in the Huffman code")
    return b"".join(parts)


def _step(key: int) -> tuple[int, bytes]:
    middle, first, one = HUFFMAN_TABLE[key >> 4]
    end, second, two = HUFFMAN_TABLE[middle << 4 | key & 0x0F]
    symbols = bytes((one,)) if first & HUFFMAN_EMIT_SYMBOL else b""
    if second & HUFFMAN_EMIT_SYMBOL:
        symbols += bytes((two,))
    if (first | second) & HUFFMAN_FAIL:
        symbols = _WRONG
    if len(_steps) >= MEMO_STEPS:
        _steps.clear()
    step = _steps[key] = (end << 8, symbols)
    return step
