//! KVM's own statistics, from the file that it offers of a VM and of each vCPU.
//!
//! ```text
//! header (24 bytes): flags, name size, descriptors, offsets of id, descriptors and data
//! descriptor:        flags, exponent, items, offset into data, bucket size, name
//! data:              u64 a item
//! ```
//! See Linux Documentation/virt/kvm/api.rst, section 4.133 (`KVM_GET_STATS_FD`). Numbers are the
//! host's. The kernel is trusted, and yet nothing it says makes us read or keep without a bound.

use std::collections::BTreeMap;
use std::io;

use kvm_bindings::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK,
};

const HEADER: usize = 24;
/// Bytes of a descriptor before its name.
const DESCRIPTOR: usize = 16;
/// More than any kernel has: x86 has some fifty, with names of 48 bytes.
const MOST: usize = 1024;
const LONGEST_NAME: usize = 256;
/// Bytes of data before the end of the last number we take.
const MOST_DATA: usize = 1 << 20;

/// Reads single numbers, not histograms, of the statistics that `read` gives the bytes of: it fills
/// the buffer from that offset of the file on, or fails.
///
/// # Errors
/// The file's, or [`io::ErrorKind::InvalidData`] for what is no such file.
pub fn read(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<BTreeMap<String, u64>> {
    let mut header = [0; HEADER];
    read(&mut header, 0)?;
    let [_, name_size, count, _, descriptors_at, data_at] =
        [0, 4, 8, 12, 16, 20].map(|at| word(&header, at));
    let (name_size, count) = (name_size as usize, count as usize);
    if count > MOST || name_size > LONGEST_NAME {
        return Err(invalid("more or longer statistics than any kernel has"));
    }
    let mut bytes = vec![0; count * (DESCRIPTOR + name_size)];
    read(&mut bytes, descriptors_at.into())?;
    let numbers: Vec<(usize, &str)> =
        bytes.chunks_exact(DESCRIPTOR + name_size).filter_map(number).collect();
    let end = numbers.iter().map(|(at, _)| at + 8).max().unwrap_or(0);
    if end > MOST_DATA {
        return Err(invalid("its numbers lie further apart than any kernel's"));
    }
    let mut data = vec![0; end];
    read(&mut data, data_at.into())?;
    let value = |at: usize| Some(u64::from_ne_bytes(*data.get(at..)?.first_chunk()?));
    Ok(numbers.into_iter().filter_map(|(at, name)| Some((name.to_owned(), value(at)?))).collect())
}

/// Where the single number that a descriptor is of lies in the data, and its name.
fn number(descriptor: &[u8]) -> Option<(usize, &str)> {
    let (head, name) = descriptor.split_at_checked(DESCRIPTOR)?;
    let items = u16::from_ne_bytes([head[6], head[7]]);
    let kind = word(head, 0) & KVM_STATS_TYPE_MASK;
    let single =
        [KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_PEAK].contains(&kind);
    let name = str::from_utf8(name.split(|byte| *byte == 0).next()?).ok()?;
    (single && items == 1 && !name.is_empty()).then_some((word(head, 8) as usize, name))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    word.map_or(0, |word| u32::from_ne_bytes(*word))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: usize = 16;
    /// flags, items, offset, name
    type Described = (u32, u16, u32, &'static str);

    fn file(name_size: u32, count: u32, described: &[Described], data: &[u64]) -> Vec<u8> {
        let descriptors_at = HEADER as u32 + 8;
        let data_at = descriptors_at + (described.len() * (DESCRIPTOR + NAME)) as u32;
        let header = [0, name_size, count, HEADER as u32, descriptors_at, data_at];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(b"kvm-1234");
        for (flags, items, offset, name) in described {
            bytes.extend(flags.to_ne_bytes());
            bytes.extend([0, 0]);
            bytes.extend(items.to_ne_bytes());
            bytes.extend(offset.to_ne_bytes());
            bytes.extend([0; 4]);
            let mut field = [0; NAME];
            field[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(field);
        }
        bytes.extend(data.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    fn parsed(bytes: &[u8]) -> io::Result<Vec<(String, u64)>> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let read_at = |to: &mut [u8], at: u64| {
            let from = bytes.get(at as usize..).ok_or_else(short)?;
            to.copy_from_slice(from.get(..to.len()).ok_or_else(short)?);
            Ok(())
        };
        Ok(read(read_at)?.into_iter().collect())
    }

    const REAL: [Described; 4] = [
        (KVM_STATS_TYPE_CUMULATIVE, 1, 8, "exits"),
        (kvm_bindings::KVM_STATS_TYPE_LOG_HIST, 32, 16, "halt_wait_hist"),
        (KVM_STATS_TYPE_INSTANT | kvm_bindings::KVM_STATS_UNIT_BOOLEAN, 1, 0, "guest_mode"),
        (KVM_STATS_TYPE_CUMULATIVE, 1, 16, "a_name_in_full__"),
    ];

    #[test]
    fn single_numbers_are_read_by_name_and_histograms_left_out() {
        let read = parsed(&file(NAME as u32, 4, &REAL, &[1, 77, 3])).unwrap();
        let expected = [("a_name_in_full__", 3), ("exits", 77), ("guest_mode", 1)];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(parsed(&file(NAME as u32, 0, &[], &[])).unwrap(), []);
    }

    #[test]
    fn what_is_cut_off_anywhere_is_an_error() {
        let whole = file(NAME as u32, 4, &REAL, &[1, 77, 3]);
        for length in 0..whole.len() {
            assert!(parsed(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn nothing_is_allocated_for_absurd_numbers() {
        let far = [(KVM_STATS_TYPE_CUMULATIVE, 1, u32::MAX, "exits")];
        for bytes in [
            file(NAME as u32, u32::MAX, &REAL, &[1, 77, 3]),
            file(u32::MAX, 4, &REAL, &[1, 77, 3]),
            file(NAME as u32, 1, &far, &[1]),
        ] {
            let error = parsed(&bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        // Descriptors that overlap the data, or have no names, are odd and harmless.
        for name_size in 0..NAME as u32 {
            parsed(&file(name_size, 4, &REAL, &[1, 77, 3])).ok();
        }
    }
}
