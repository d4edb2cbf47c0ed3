//! Whether an ELF kernel can be entered by PVH, as the VMM enters it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of an ELF64 header and of one of its program headers (System V ABI, ELF-64).
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Most program headers that are looked at; a kernel has five.
const SEGMENTS_MAX: u16 = 64;
/// Longest notes that are looked at, in bytes; a kernel's have some 500.
const NOTES_MAX: u64 = 64 << 10;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_NOTE: u32 = 4;
/// Type of the note with the entry (Xen's public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).
const NOTE_ENTRY: u32 = 18;

/// Whether `file` begins with an x86-64 ELF kernel that has a PVH entry.
///
/// # Errors
/// What it is instead.
pub fn check(file: &File) -> Result<(), String> {
    let mut header = [0; HEADER];
    let kind = [0x7f, b'E', b'L', b'F', 2, 1];
    if file.read_exact_at(&mut header, 0).is_err()
        || !header.starts_with(&kind)
        || half(&header, 18) != Some(MACHINE_X86_64)
    {
        return Err("what it holds is no x86-64 ELF kernel".to_owned());
    }
    match has_entry(file, &header) {
        Some(true) => Ok(()),
        _ => Err("the kernel in it has no PVH entry (CONFIG_PVH)".to_owned()),
    }
}

/// `None` where the file does not hold what its header says.
fn has_entry(file: &File, header: &[u8]) -> Option<bool> {
    let first = long(header, 32)?;
    let (size, count) = (half(header, 54)?, half(header, 56)?.min(SEGMENTS_MAX));
    if usize::from(size) != PROGRAM_HEADER {
        return None;
    }
    for index in 0..count {
        let mut segment = [0; PROGRAM_HEADER];
        let at = first.checked_add(u64::from(index) * u64::from(size))?;
        file.read_exact_at(&mut segment, at).ok()?;
        let (offset, length) = (long(&segment, 8)?, long(&segment, 32)?);
        if word(&segment, 0)? != SEGMENT_NOTE || length > NOTES_MAX {
            continue;
        }
        let mut notes = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut notes, offset).ok()?;
        if hold_entry(&notes) {
            return Some(true);
        }
    }
    Some(false)
}

/// Whether one of these notes names the entry.
fn hold_entry(mut notes: &[u8]) -> bool {
    let next = |notes: &mut &[u8]| -> Option<bool> {
        let sizes = [0, 4].map(|at| word(notes, at).and_then(|size| usize::try_from(size).ok()));
        let [name, value] = [sizes[0]?, sizes[1]?];
        let kind = word(notes, 8)?;
        let value_at = 12 + name.checked_next_multiple_of(4)?;
        let is_entry = kind == NOTE_ENTRY
            && notes.get(12..12usize.checked_add(name)?)? == b"Xen\0"
            && (value == 4 || value == 8)
            && notes.get(value_at..value_at.checked_add(value)?).is_some();
        let end = value_at.checked_add(value.checked_next_multiple_of(4)?)?;
        // Each note has at least its header, so the walk ends.
        *notes = notes.get(end..).unwrap_or_default();
        Some(is_entry)
    };
    while let Some(is_entry) = next(&mut notes) {
        if is_entry {
            return true;
        }
    }
    false
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::tests::file;
    use super::*;

    /// A kernel that is nothing but its headers and the note.
    pub fn kernel() -> Vec<u8> {
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.resize(16, 0);
        let halves = |image: &mut Vec<u8>, halves: &[u16]| {
            image.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        };
        let longs = |image: &mut Vec<u8>, longs: &[u64]| {
            image.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
        };
        halves(&mut image, &[2, MACHINE_X86_64, 1, 0]);
        longs(&mut image, &[0x100_0000, 64, 0]);
        halves(&mut image, &[0, 0, 64, 56, 1, 0, 0, 0]);
        halves(&mut image, &[4, 0, 4, 0]);
        longs(&mut image, &[120, 0, 0, 20, 20, 4]);
        halves(&mut image, &[4, 0, 4, 0, 18, 0]);
        image.extend_from_slice(b"Xen\0\0\0\0\x01");
        image
    }

    #[test]
    fn the_entry_is_found_and_missed() {
        check(&file(&kernel())).expect("an entry");
        let refusal = |change: fn(&mut Vec<u8>)| {
            let mut image = kernel();
            change(&mut image);
            check(&file(&image)).expect_err("no entry")
        };
        for change in [
            (|image| image.truncate(63)) as fn(&mut Vec<u8>),
            |image| image[0] = 0,
            |image| image[4] = 1,
            |image| image[18] = 3,
        ] {
            assert!(refusal(change).contains("no x86-64 ELF"));
        }
        for change in [
            (|image| image.truncate(139)) as fn(&mut Vec<u8>),
            |image| image[32..40].fill(0xff),
            |image| image[54] = 0,
            |image| image[56] = 0,
            |image| image[64] = 1,
            |image| image[72..80].fill(0xff),
            |image| image[96..104].fill(0xff),
            |image| image[120..124].fill(0xff),
            |image| image[124..128].fill(0xff),
            |image| image[128] = 3,
            |image| image[132] = b'x',
        ] {
            assert!(refusal(change).contains("PVH"));
        }
    }

    proptest! {
        #[test]
        fn no_notes_keep_the_walk_from_ending(notes in prop::collection::vec(0_u8..20, 0..300)) {
            hold_entry(&notes);
        }
    }
}
