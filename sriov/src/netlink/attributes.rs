//! Netlink attributes: a length, a kind and a value, padded to four bytes (netlink(7)).

/// The kind without its two flag bits (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const KIND: u16 = 0x3fff;

/// The attributes in `bytes`, as far as they are whole; what comes after one that is cut off has no
/// meaning any more.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes, whole: true }
}

/// See [`attributes`].
#[derive(Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    whole: bool,
}

impl Attributes<'_> {
    /// Whether all that was seen so far made sense.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        if self.rest.is_empty() {
            return None;
        }
        let found = (|| {
            let length = usize::from(half(self.rest, 0)?);
            let kind = half(self.rest, 2)? & KIND;
            // The length counts its own four bytes, so that the next one always lies further on.
            let value = self.rest.get(4..length)?;
            Some((kind, value, self.rest.get(length.next_multiple_of(4)..).unwrap_or_default()))
        })();
        let Some((kind, value, rest)) = found else {
            self.whole = false;
            self.rest = &[];
            return None;
        };
        self.rest = rest;
        Some((kind, value))
    }
}

/// 16 bits at a place, as this machine writes them.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

/// 32 bits at a place, as this machine writes them.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_whole_and_ends() {
        let mut bytes = Vec::new();
        for (kind, value) in [(1u16, &b"ab"[..]), (0x8002, b"cdef"), (3, b"")] {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let expected: [(u16, &[u8]); 3] = [(1, b"ab"), (2, b"cdef"), (3, b"")];
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), expected);
        for length in 0..bytes.len() {
            let mut cut = attributes(&bytes[..length]);
            let read = cut.by_ref().count();
            assert!(read < 3 || !cut.is_whole() || length >= 8 + 8, "{length}");
        }
        for length in [0u16, 1, 3, 9, u16::MAX] {
            let mut odd = attributes(&[0; 0]);
            assert_eq!(odd.next(), None);
            let bytes = [length.to_ne_bytes(), [1, 0], [0, 0], [0, 0]].concat();
            odd = attributes(&bytes);
            assert_eq!(odd.next(), None, "{length}");
            assert!(!odd.is_whole());
        }
    }
}
