//! What memory a process has: locked, pinned, and its own share of what it has mapped.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::attribute;
use crate::root::HostRoot;

/// A process's memory in bytes. None is what the kernel does not tell, or not to this user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// `VmLck`: locked, by VFIO's type1 among others.
    pub locked_bytes: Option<u64>,
    /// `VmPin`: pinned, by iommufd among others.
    pub pinned_bytes: Option<u64>,
    /// What it has in pages that are kept once for several who have the same (KSM).
    pub merged_bytes: Option<u64>,
    /// Its share (Pss) of all mappings but those at the addresses that were left out.
    pub other_bytes: Option<u64>,
}

impl ProcessMemory {
    /// Of the process with this id, leaving out mappings that overlap `without`. The kernel looks at
    /// each page of the process for that.
    pub fn read(root: &HostRoot, pid: u32, without: &[RangeInclusive<u64>]) -> ProcessMemory {
        let table = |file: &str| attribute::read_table(&root.proc(&format!("{pid}/{file}")));
        let status = table("status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| kib(line.strip_prefix(name)?));
        ProcessMemory {
            locked_bytes: field("VmLck:"),
            pinned_bytes: field("VmPin:"),
            merged_bytes: table("ksm_merging_pages").ok().and_then(|pages| {
                pages.trim().parse::<u64>().ok()?.checked_mul(rustix::param::page_size() as u64)
            }),
            other_bytes: table("smaps").ok().and_then(|smaps| share(&smaps, without)),
        }
    }
}

/// Bytes of `     123 kB`.
fn kib(text: &str) -> Option<u64> {
    let number = text.trim().strip_suffix("kB")?.trim_end();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// The sum of Pss; none where there is none.
fn share(smaps: &str, without: &[RangeInclusive<u64>]) -> Option<u64> {
    let mut sum = None;
    let mut counts = true;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            let overlaps = |range: &RangeInclusive<u64>| {
                mapping.start() <= range.end() && range.start() <= mapping.end()
            };
            counts = !without.iter().any(overlaps);
        } else if let Some(bytes) = line.strip_prefix("Pss:").and_then(kib) {
            let bytes = if counts { bytes } else { 0 };
            sum = Some(u64::saturating_add(sum.unwrap_or(0), bytes));
        }
    }
    sum
}

/// The addresses of `7f0000000000-7f0010000000 rw-p 00000000 00:00 0`.
fn mapping(line: &str) -> Option<RangeInclusive<u64>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..=number(end)?.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
        1000-3000 r-xp 00000000 08:01 12 /usr/bin/assign-vmm\n\
        Size:                  8 kB\nPss:                   6 kB\nPss_Dirty:             4 kB\n\
        7f0000000000-7f0010000000 rw-p 00000000 00:00 0\n\
        Pss:              262144 kB\n\
        7f0010000000-7f0010001000 rw-p 00000000 00:00 0 [anon: x-y]\n\
        Pss:                   4 kB\nVmFlags: rd wr\n";

    #[test]
    fn what_is_left_out_is_not_counted() {
        let ram = 0x7f00_0000_0000..=0x7f00_0fff_ffff;
        assert_eq!(share(SMAPS, std::slice::from_ref(&ram)), Some(10 << 10));
        assert_eq!(share(SMAPS, &[]), Some((10 << 10) + (256 << 20)));
        assert_eq!(share("", &[ram]), None);
    }

    #[test]
    fn a_process_is_read_as_far_as_it_is_there() {
        let own = ProcessMemory::read(&HostRoot::live(), std::process::id(), &[]);
        assert!(own.locked_bytes.is_some() && own.other_bytes.is_some_and(|bytes| bytes > 0));
        let none = ProcessMemory::read(&HostRoot::live(), u32::MAX, &[]);
        assert_eq!(none, ProcessMemory::default());
    }

    #[test]
    fn odd_lines_are_no_numbers() {
        for (text, expected) in [
            ("  12 kB", Some(12 << 10)),
            ("12", None),
            ("-1 kB", None),
            ("kB", None),
            ("18446744073709551615 kB", None),
        ] {
            assert_eq!(kib(text), expected, "{text}");
        }
        for line in ["", "-", "0-0 rw-p", "zz-10 rw-p", "10-ffffffffffffffffff"] {
            assert_eq!(mapping(line), None, "{line}");
        }
    }
}
