//! The kernel's words for a fault, as of Linux 4.4 to 6.18.
//!
//! - Intel (drivers/iommu/intel/dmar.c, `dmar_fault_do_one`): bus, device and function, never the
//!   segment. `PASID` came in 5.13, `0x` before each number in 5.14 only.
//! - AMD (drivers/iommu/amd/iommu.c, `amd_iommu_report_page_fault`): before the device's driver and
//!   address where the kernel knows the function; the segment since 6.1.
//! - Arm (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c, `arm_smmu_dump_event`): the device since 6.14.
//!   Older kernels write raw numbers, which are not read here.
//!
//! A line must begin as these do. The kernel also writes names that devices give themselves, and what
//! is within a line is not believed.

use super::{Access, Blocked, DmaFault, IoAddress};
use crate::address::PciAddress;
use crate::attribute;
use crate::root::HostRoot;

/// Longest reason that is passed on, in characters; the kernel's longest has 75.
const LONGEST_REASON: usize = 120;

/// A fault as a line tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The device; in domain 0 where the line does not tell.
    pub device: PciAddress,
    /// Whether the line tells the domain.
    pub has_domain: bool,
    /// What it tried.
    pub blocked: Blocked,
}

impl Report {
    /// The fault, with the domain of this host's device where the line lacks it and only one domain
    /// other than 0 has a device there.
    pub fn fault(self, root: &HostRoot) -> DmaFault {
        let Report { device, has_domain, blocked } = self;
        if has_domain || root.pci_device(device).exists() {
            return DmaFault { device, blocked };
        }
        let names = attribute::entries(&root.pci_devices()).unwrap_or_default();
        let mut there = names
            .iter()
            .filter_map(|name| name.parse::<PciAddress>().ok())
            .filter(|other| other.routing_id() == device.routing_id());
        let device = match (there.next(), there.next()) {
            (Some(only), None) => only,
            _ => device,
        };
        DmaFault { device, blocked }
    }
}

/// What a message of the kernel tells of a fault; `None` where it is about something else.
pub fn parse(message: &str) -> Option<Report> {
    intel(message).or_else(|| amd(message)).or_else(|| arm(message))
}

/// `DMAR: [DMA Write NO_PASID] Request device [00:05.0] fault addr 0x1000 [fault reason 0x05] …`
fn intel(message: &str) -> Option<Report> {
    let rest = message.strip_prefix("DMAR:")?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest).strip_prefix("[DMA ")?;
    let (kind, rest) = rest.split_once("] Request device [")?;
    let access = match kind.split(' ').next()? {
        "Read" => Access::Read,
        "Write" => Access::Write,
        _ => return None,
    };
    let (name, rest) = rest.split_once(']')?;
    let (device, has_domain) = device(name)?;
    let (between, rest) = rest.split_once(" fault addr ")?;
    if !between.is_empty() && !between.starts_with(" PASID ") {
        return None;
    }
    let (address, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let address = IoAddress(hex(address)?);
    let reason = rest.strip_prefix("[fault reason ").and_then(|rest| rest.split_once("] "));
    let reason = reason.map(|(_, words)| words.chars().take(LONGEST_REASON).collect());
    let blocked = Blocked { access: Some(access), address, reason, count: 1 };
    Some(Report { device, has_domain, blocked })
}

/// `AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:01:00.0 domain=0x0010 address=0x1000 flags=0x0000]`,
/// or without `device=` after `vfio-pci 0000:01:00.0: `.
fn amd(message: &str) -> Option<Report> {
    let (before, fields) = message.split_once("AMD-Vi: Event logged [IO_PAGE_FAULT ")?;
    let (fields, _) = fields.split_once(']')?;
    let field = |name: &str| {
        let mut fields = fields.split(' ').filter_map(|field| field.split_once('='));
        fields.find_map(|(key, value)| (key == name).then_some(value))
    };
    let name = match before {
        "" => field("device")?,
        _ => {
            let (driver, name) = before.strip_suffix(": ")?.split_once(' ')?;
            if driver.contains(':') {
                return None;
            }
            name
        }
    };
    let (device, has_domain) = device(name)?;
    let address = IoAddress(hex(field("address")?)?);
    let blocked =
        Blocked { access: amd_access(hex(field("flags")?)?), address, reason: None, count: 1 };
    Some(Report { device, has_domain, blocked })
}

/// RW tells only where PR says that a page was there (AMD I/O Virtualization Technology
/// Specification, 2.5.3: IO_PAGE_FAULT event).
fn amd_access(flags: u64) -> Option<Access> {
    const PR: u64 = 1 << 4;
    const RW: u64 = 1 << 5;
    let access = if flags & RW == 0 { Access::Read } else { Access::Write };
    (flags & PR != 0).then_some(access)
}

/// `arm-smmu-v3 arm-smmu-v3.0.auto: event: F_TRANSLATION client: 0000:01:00.0 sid: … iova: 0x1000 …`
fn arm(message: &str) -> Option<Report> {
    let (unit, rest) = message.strip_prefix("arm-smmu-v3 ")?.split_once(": event: ")?;
    let (reason, rest) = rest.split_once(" client: ")?;
    let (name, rest) = rest.split_once(" sid: ")?;
    let (_, address) = rest.split_once(" iova: ")?;
    if unit.contains(' ') || !reason.starts_with("F_") || reason.len() > LONGEST_REASON {
        return None;
    }
    let (device, has_domain) = device(name)?;
    let address = IoAddress(hex(address.split(' ').next()?)?);
    // The next line tells what it tried.
    let blocked = Blocked { access: None, address, reason: Some(reason.to_owned()), count: 1 };
    Some(Report { device, has_domain, blocked })
}

/// A device's address, and whether it has its domain.
fn device(name: &str) -> Option<(PciAddress, bool)> {
    if name.len() > 24 {
        return None;
    }
    let plain = name.replace("0x", "");
    Some((plain.parse().ok()?, plain.matches(':').count() == 2))
}

/// Up to 16 hexadecimal digits, with or without `0x`.
pub(super) fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (all && digits.len() <= 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as kernels wrote them, with what they tell.
    const RECORDED: &[(&str, &str, Option<Access>, u64)] = &[
        // Linux 4.4, on two lines, of which this is the first
        (
            "DMAR:[DMA Write] Request device [00:02.0] fault addr 6df084000",
            "0000:00:02.0",
            W,
            0x6_df08_4000,
        ),
        // Linux 5.4
        (
            "DMAR: [DMA Read] Request device [03:00.0] PASID ffffffff fault addr ffe3a000 [fault reason 06] PTE Read access is not set",
            "0000:03:00.0",
            R,
            0xffe3_a000,
        ),
        // Linux 5.14
        (
            "DMAR: [DMA Write NO_PASID] Request device [0x00:0x02.0] fault addr 0x9f6c6000 [fault reason 0x05] PTE Write access is not set",
            "0000:00:02.0",
            W,
            0x9f6c_6000,
        ),
        // Linux 6.12
        (
            "DMAR: [DMA Write NO_PASID] Request device [00:1c.0] fault addr 0x10000000 [fault reason 0x05] PTE Write access is not set",
            "0000:00:1c.0",
            W,
            0x1000_0000,
        ),
        (
            "DMAR: [DMA Read PASID 0x12] Request device [6a:01.0] fault addr 0x7f0000000000 [fault reason 0x71] SM: Present bit in first-level paging entry is clear",
            "0000:6a:01.0",
            R,
            0x7f00_0000_0000,
        ),
        // Linux 3.17
        (
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=0a:00.0 domain=0x001d address=0x000000000637c000 flags=0x0000]",
            "0000:0a:00.0",
            None,
            0x637_c000,
        ),
        // Linux 6.5
        (
            "vfio-pci 0000:04:10.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0037 address=0x7b657064 flags=0x0000]",
            "0000:04:10.0",
            None,
            0x7b65_7064,
        ),
        (
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=0001:01:00.0 domain=0x0010 address=0xfffffff00000 flags=0x0030]",
            "0001:01:00.0",
            W,
            0xffff_fff0_0000,
        ),
        // Linux 6.14
        (
            "arm-smmu-v3 arm-smmu-v3.0.auto: event: F_TRANSLATION client: 0000:01:00.0 sid: 0x100 ssid: 0x0 iova: 0xdeadb000 ipa: 0x0",
            "0000:01:00.0",
            None,
            0xdead_b000,
        ),
    ];
    const R: Option<Access> = Some(Access::Read);
    const W: Option<Access> = Some(Access::Write);

    #[test]
    fn faults_are_found_in_the_words_of_every_kernel() {
        for (line, device, access, address) in RECORDED {
            let report = parse(line).unwrap_or_else(|| panic!("not read: {line}"));
            assert_eq!(report.device.to_string(), *device, "{line}");
            assert_eq!(report.blocked.access, *access, "{line}");
            assert_eq!(report.blocked.address, IoAddress(*address), "{line}");
            assert_eq!(report.blocked.count, 1);
        }
        let reason = |line| parse(line).and_then(|report| report.blocked.reason);
        assert_eq!(reason(RECORDED[3].0).as_deref(), Some("PTE Write access is not set"));
        assert_eq!(reason(RECORDED[0].0), None);
    }

    #[test]
    fn other_lines_are_no_faults() {
        for line in [
            "",
            "DMAR: DRHD: handling fault status reg 2",
            "DMAR: Dump dmar0 table entries for IOVA 0x10000000",
            "DMAR: [INTR-REMAP] Request device [00:1f.0] fault index 0x0 [fault reason 0x22] Present field in the IRTE entry is clear",
            "DMAR: [DMA Fetch NO_PASID] Request device [00:1c.0] fault addr 0x1000 [fault reason 0x05] x",
            "DMAR: [DMA Write NO_PASID] Request device [00:1c.9] fault addr 0x1000 [fault reason 0x05] x",
            "DMAR: [DMA Write NO_PASID] Request device [00:1c.0] fault addr 0x10000000000000000 [fault",
            "DMAR: [DMA Write NO_PASID] Request device [00:1c.0] by force fault addr 0x1000",
            "AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0a:00.0 address=0x0 flags=0x0000]",
            "AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0010 address=0x0 flags=0x0000]",
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=0a:00.0 domain=0x001d address=0x0 flags=",
            // What a device calls itself.
            "usb 1-1: Product: DMAR: [DMA Write NO_PASID] Request device [00:1c.0] fault addr 0x1000 x",
            "usb 1-1: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0037 address=0x0 flags=0x0000]",
            "usb 1-1: Manufacturer: 0000:04:10.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0037 address=0x0 flags=0x0000]",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_line_that_was_cut_or_changed_is_no_harm() {
        for (line, ..) in RECORDED {
            for at in 0..line.len() {
                parse(&line[..at]);
                for byte in ["\u{0}", "\u{fffd}", "[", "]", ":", " ", "="] {
                    let changed = [&line[..at], byte, &line[at + 1..]].concat();
                    parse(&changed);
                }
            }
            let long = line.replace("PTE", &"x".repeat(8000));
            let reason = parse(&long).and_then(|report| report.blocked.reason);
            assert!(reason.is_none_or(|reason| reason.chars().count() <= LONGEST_REASON));
        }
    }

    #[test]
    fn a_domain_that_is_not_told_is_that_of_the_only_device_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = HostRoot::at(folder.path());
        let found = || {
            let report = parse(RECORDED[3].0).expect("a fault");
            report.fault(&root).device.to_string()
        };
        let there = |address: &str| {
            std::fs::create_dir_all(root.pci_devices().join(address)).expect("a device");
        };
        assert_eq!(found(), "0000:00:1c.0", "a host that cannot be asked");
        there("10000:00:1c.0");
        there("10000:00:1d.0");
        assert_eq!(found(), "10000:00:1c.0");
        there("10001:00:1c.0");
        assert_eq!(found(), "0000:00:1c.0", "nobody knows which");
        there("0000:00:1c.0");
        assert_eq!(found(), "0000:00:1c.0");
    }
}
