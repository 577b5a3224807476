//! Numbers and byte strings of the listing's encoding: varints, each with one form only.

/// Why bytes are no valid listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What decoding returns.
pub(super) type Decoded<T> = std::result::Result<T, Malformed>;

/// Most bytes of a varint that holds 64 bits.
const VARINT_BYTES_MAX: u32 = 10;

/// Appends a number: seven bits a byte, the lowest first.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number, small ones short whatever their sign.
pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left to decode.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of the bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Input { rest: bytes }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Decoded<u8> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(byte)
    }

    /// The next number; longer forms than needed are refused.
    pub(super) fn number(&mut self) -> Decoded<u64> {
        let mut number = 0u64;
        for place in 0..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if place == VARINT_BYTES_MAX - 1 && bits > 1 {
                return Err(Malformed("a number is too large"));
            }
            number |= bits << (7 * place);
            if byte & 0x80 == 0 {
                let padded = byte == 0 && place > 0;
                return if padded {
                    Err(Malformed("a number is padded"))
                } else {
                    Ok(number)
                };
            }
        }
        Err(Malformed("a number is too long"))
    }

    /// The next signed number.
    pub(super) fn signed(&mut self) -> Decoded<i64> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The next number, of 32 bits.
    pub(super) fn small(&mut self) -> Decoded<u32> {
        u32::try_from(self.number()?).map_err(|_| Malformed("a number is over 32 bits"))
    }

    /// The next byte string, of at most `max` bytes.
    pub(super) fn bytes(&mut self, max: usize) -> Decoded<&'a [u8]> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed("a length is too large"))?;
        if count > max {
            return Err(Malformed("a name, target or value is too long"));
        }
        self.take(count)
    }

    /// The next 32 bytes.
    pub(super) fn digest(&mut self) -> Decoded<[u8; 32]> {
        self.take(32)?.try_into().map_err(|_| Malformed("it ends too early"))
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses anything left over.
    pub(super) fn end(self) -> Decoded<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes follow its end"))
        }
    }
}
