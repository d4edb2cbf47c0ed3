//! The pieces of guest memory that data goes to or comes from. They stay mapped as long as the process,
//! and nobody holds references into them.

use std::io::{self, ErrorKind};

/// A part of them, or of a file or disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

/// The pieces of this part of `pieces`.
pub fn part(pieces: &[libc::iovec], Range { offset, length }: Range) -> Vec<libc::iovec> {
    let (mut skipped, mut left) = (offset, length);
    let mut part = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let skip = skipped.min(piece.iov_len as u64) as usize;
        skipped -= skip as u64;
        let count = left.min((piece.iov_len - skip) as u64) as usize;
        left -= count as u64;
        if count > 0 {
            // SAFETY: it is within the piece.
            let iov_base = unsafe { piece.iov_base.cast::<u8>().add(skip) }.cast();
            part.push(libc::iovec { iov_base, iov_len: count });
        }
    }
    part
}

/// Has `call` move this part of `pieces` to or from a file, from its byte `at` on: how many bytes were
/// moved before the file ended.
///
/// # Errors
/// What the call leaves behind.
pub fn transfer(
    pieces: &[libc::iovec],
    range: Range,
    at: u64,
    call: impl Fn(&[libc::iovec], i64) -> isize,
) -> io::Result<u64> {
    let mut moved = 0;
    while moved < range.length {
        let left = Range { offset: range.offset + moved, length: range.length - moved };
        let at = i64::try_from(at + moved).map_err(io::Error::other)?;
        match call(&part(pieces, left), at) {
            0 => break,
            count if count > 0 => moved += count.unsigned_abs() as u64,
            _ => match io::Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(moved)
}

/// Copies `bytes` there, from the byte `offset` of `pieces` on.
pub fn put(pieces: &[libc::iovec], offset: u64, mut bytes: &[u8]) {
    let range = Range { offset, length: bytes.len() as u64 };
    for piece in part(pieces, range) {
        let (now, later) = bytes.split_at(piece.iov_len);
        // SAFETY: the piece is guest memory of that length, and what is copied is memory of ours.
        unsafe { piece.iov_base.cast::<u8>().copy_from_nonoverlapping(now.as_ptr(), now.len()) };
        bytes = later;
    }
}

/// Has this part be zeroes.
pub fn clear(pieces: &[libc::iovec], range: Range) {
    for piece in part(pieces, range) {
        // SAFETY: the piece is guest memory of that length.
        unsafe { piece.iov_base.cast::<u8>().write_bytes(0, piece.iov_len) };
    }
}
