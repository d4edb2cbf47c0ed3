//! Compressed clusters. However much one is said to hold, no more than a cluster is unpacked.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::StreamingDecoder;

use super::header::Compression;

/// Largest window of a zstd frame, in bytes, which may have to be kept: those that compress best use it.
const WINDOW: u64 = 8 << 20;

/// Unpacks `packed`, which may end in what does not belong to it, into `cluster`.
///
/// # Errors
/// Where it is damaged, or holds less than a cluster.
pub fn unpack(kind: Compression, packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
    let done = match kind {
        Compression::Deflate => {
            let mut decoder = Decompress::new(false);
            let done = decoder.decompress(packed, cluster, FlushDecompress::Finish);
            done.is_ok() && decoder.total_out() == cluster.len() as u64
        }
        Compression::Zstd => StreamingDecoder::new_with_max_window_size(packed, WINDOW)
            .is_ok_and(|mut decoder| decoder.read_exact(cluster).is_ok()),
    };
    if done { Ok(()) } else { Err(super::damage("a compressed cluster cannot be unpacked")) }
}
