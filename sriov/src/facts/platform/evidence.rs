//! What tells on which platform a kernel runs, gathered before anything is concluded from it.
//!
//! These are the signs that virt-what(1) and systemd-detect-virt(1) go by, as documented there, in
//! the kernel (Documentation/ABI) and by the vendors.

use serde::{Deserialize, Serialize};

use super::cpuid::Cpuid;
use crate::attribute;
use crate::facts::reader::Reader;

/// Signs of a platform. A field is empty where there is no such sign, or where it cannot be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// What the CPU says; `None` where it was not asked, as for a recorded tree.
    pub cpuid: Option<Cpuid>,
    /// Whether the first CPU has the flag `hypervisor` (`/proc/cpuinfo`); `None` without flags.
    pub hypervisor_flag: Option<bool>,
    /// The first CPU's vendor (`/proc/cpuinfo`, `vendor_id`).
    pub cpu_vendor: String,
    /// What firmware says of the machine (SMBIOS types 0 to 3).
    pub dmi: Dmi,
    /// Clocks the kernel could keep time by (`available_clocksource`).
    pub clocks: Vec<String>,
    /// Xen, as its guests see it.
    pub xen: Xen,
    /// The kernel's release.
    pub kernel: String,
    /// WSL's way of starting programs of its host is set up (`binfmt_misc/WSLInterop`).
    pub wsl_interop: bool,
    /// The variable `container` of the first process, which container managers set (systemd's
    /// "Container Interface").
    pub container_variable: Option<String>,
    /// `/run/systemd/container`: the same as systemd in the container noted it, for every user.
    pub container_file: Option<String>,
    /// `/.dockerenv` is there.
    pub dockerenv: bool,
    /// `/run/.containerenv` is there.
    pub containerenv: bool,
    /// `/proc/vz` is there: a kernel of OpenVZ or Virtuozzo.
    pub vz: bool,
    /// `/proc/bc` is there: the same, seen from its host.
    pub bc: bool,
    /// Control groups of the first process.
    pub cgroups: Vec<String>,
}

/// What firmware says (`/sys/class/dmi/id`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dmi {
    /// Who made the machine.
    pub system_vendor: String,
    /// What it is called.
    pub product_name: String,
    /// Who made the board.
    pub board_vendor: String,
    /// Who made the firmware.
    pub bios_vendor: String,
    /// The firmware's version.
    pub bios_version: String,
    /// The label on the chassis.
    pub chassis_tag: String,
}

/// What Xen shows its guests, the privileged one among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Xen {
    /// `/proc/xen` is there.
    pub directory: bool,
    /// `/proc/xen/capabilities`: `control_d` in the privileged domain.
    pub capabilities: String,
    /// `/sys/hypervisor/type`.
    pub hypervisor: String,
    /// `/sys/hypervisor/guest_type`: PV, HVM or PVH.
    pub guest_type: String,
    /// `/sys/hypervisor/properties/features`, in hexadecimal; bit 11 is the privileged domain.
    pub features: String,
}

/// Enough of `/proc/cpuinfo` for the first CPU.
const CPUINFO_BYTES: u64 = 16 << 10;
/// More than any of these strings has; what is longer is cut.
const TEXT_CHARACTERS: usize = 128;

impl Evidence {
    /// Gathers the signs below a root; `cpuid` is what is known of the CPU beside the files.
    pub fn read(reader: &mut Reader, cpuid: Option<Cpuid>) -> Evidence {
        let root = reader.root;
        let cpu = first_cpu(reader);
        let clocks = "devices/system/clocksource/clocksource0/available_clocksource";
        Evidence {
            cpuid,
            hypervisor_flag: cpu.flags("flags").map(|flags| flags.contains(&"hypervisor")),
            cpu_vendor: short(cpu.field("vendor_id").unwrap_or_default()),
            dmi: Dmi::read(reader),
            clocks: words(&reader.text(&root.sys(clocks)).unwrap_or_default()),
            xen: Xen::read(reader),
            kernel: text(reader, &root.proc("sys/kernel/osrelease")),
            wsl_interop: root.proc("sys/fs/binfmt_misc/WSLInterop").exists(),
            container_variable: container_variable(reader),
            container_file: reader.text(&root.run("systemd/container")).map(|name| short(&name)),
            dockerenv: root.top(".dockerenv").exists(),
            containerenv: root.run(".containerenv").exists(),
            vz: root.proc("vz").exists(),
            bc: root.proc("bc").exists(),
            cgroups: cgroups(reader),
        }
    }
}

impl Dmi {
    fn read(reader: &mut Reader) -> Dmi {
        let mut field = |name: &str| {
            let path = reader.root.sys("class/dmi/id").join(name);
            text(reader, &path)
        };
        Dmi {
            system_vendor: field("sys_vendor"),
            product_name: field("product_name"),
            board_vendor: field("board_vendor"),
            bios_vendor: field("bios_vendor"),
            bios_version: field("bios_version"),
            chassis_tag: field("chassis_asset_tag"),
        }
    }

    /// Whether firmware says anything at all.
    pub fn is_empty(&self) -> bool {
        *self == Dmi::default()
    }
}

impl Xen {
    fn read(reader: &mut Reader) -> Xen {
        let root = reader.root;
        let directory = root.proc("xen");
        let mut field = |path: std::path::PathBuf| text(reader, &path);
        Xen {
            directory: directory.exists(),
            capabilities: field(directory.join("capabilities")),
            hypervisor: field(root.sys("hypervisor/type")),
            guest_type: field(root.sys("hypervisor/guest_type")),
            features: field(root.sys("hypervisor/properties/features")),
        }
    }
}

/// Another user may not look at the first process's environment: `/run/systemd/container` says the
/// same to everybody, so that this is no problem worth noting.
fn container_variable(reader: &mut Reader) -> Option<String> {
    let environment = attribute::read_head(&reader.root.proc("1/environ"), 64 << 10).ok()?;
    let value = environment.split('\0').find_map(|variable| variable.strip_prefix("container="));
    value.filter(|value| !value.is_empty()).map(short)
}

/// Paths of `HIERARCHY:CONTROLLERS:PATH`, those at the top left out (cgroups(7)).
fn cgroups(reader: &mut Reader) -> Vec<String> {
    let table = attribute::read_head(&reader.root.proc("1/cgroup"), 64 << 10);
    let table = reader.accept(table);
    let paths = table.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut paths: Vec<String> = paths.filter(|path| *path != "/").map(short).collect();
    paths.sort();
    paths.dedup();
    paths
}

fn text(reader: &mut Reader, path: &std::path::Path) -> String {
    short(reader.text(path).unwrap_or_default().trim())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(short).collect()
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARACTERS).collect()
}

/// The first CPU's part of `/proc/cpuinfo`.
pub struct CpuInfo {
    text: String,
}

/// Reads it; the other CPUs' parts are the same for what is asked here, and costly to make.
pub fn first_cpu(reader: &mut Reader) -> CpuInfo {
    let table = attribute::read_head(&reader.root.proc("cpuinfo"), CPUINFO_BYTES);
    let text = reader.accept(table);
    let end = text.find("\n\n").unwrap_or(text.len());
    CpuInfo { text: text.get(..end).unwrap_or_default().to_owned() }
}

impl CpuInfo {
    /// What follows `name` and its colon.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            (field.trim_end() == name).then_some(value.trim())
        })
    }

    /// A list of flags; `None` where there is no such list.
    pub fn flags(&self, name: &str) -> Option<Vec<&str>> {
        self.field(name).map(|flags| flags.split_ascii_whitespace().collect())
    }
}
