//! Vendors' own drivers that stand in for vfio-pci (mlx5_vfio_pci and its like): they give a device
//! to user space as vfio-pci does, and can do more with it, such as moving it to another host.
//!
//! A module says which devices its variant is for by aliases with the prefix `vfio_pci:`, which no
//! device asks for by itself (Documentation/driver-api/vfio-pci-device-specific-driver-acceptance.rst;
//! scripts/mod/file2alias.c). `depmod` gathers those of modules in `modules.alias`, the kernel's build
//! those that are part of the kernel in `modules.builtin.modinfo`.

use super::pci::PciFunction;
use super::reader::Reader;
use crate::root::HostRoot;

/// The driver for devices that have no variant, and the module it is in.
const GENERIC: (&str, &str) = ("vfio-pci", "vfio_pci");
const PREFIX: &str = "vfio_pci:";
/// A kernel has some dozens of such aliases.
const MOST_ALIASES: usize = 65_536;
/// An alias names six numbers.
const LONGEST: usize = 256;

/// The variants this kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variants {
    aliases: Vec<Alias>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Alias {
    pattern: String,
    driver: String,
}

impl Variants {
    /// Reads the aliases of the running kernel's modules. Where there are none to read, no device
    /// has a variant.
    pub fn read(reader: &mut Reader) -> Variants {
        let release = reader.text(&reader.root.proc("sys/kernel/osrelease")).unwrap_or_default();
        if !HostRoot::is_component(&release) {
            return Variants::default();
        }
        let file = |name| reader.root.kernel_module_file(&release, name);
        let (modules, builtin) = (file("modules.alias"), file("modules.builtin.modinfo"));
        let (modules, builtin) = (reader.table(&modules), reader.table(&builtin));
        // "alias PATTERN MODULE" a line, and "MODULE.alias=PATTERN" up to each zero byte.
        let loadable = modules.lines().filter_map(|line| {
            let (pattern, module) = line.strip_prefix("alias ")?.split_once(' ')?;
            Some((pattern, module))
        });
        let builtin = builtin.split('\0').filter_map(|entry| {
            let (module, pattern) = entry.split_once(".alias=")?;
            Some((pattern, module))
        });
        let aliases = loadable
            .chain(builtin)
            .filter(|(pattern, _)| pattern.len() <= LONGEST)
            .filter_map(|(pattern, module)| Some((pattern.strip_prefix(PREFIX)?, module.trim())))
            .filter(|(_, module)| HostRoot::is_component(module) && *module != GENERIC.1)
            .take(MOST_ALIASES)
            .map(|(pattern, module)| (pattern.to_owned(), module.to_owned()));
        let aliases: Vec<(String, String)> = aliases.collect();
        let aliases = aliases
            .into_iter()
            .map(|(pattern, module)| Alias { pattern, driver: driver_of(reader, &module) });
        Variants { aliases: aliases.collect() }
    }

    /// The driver that is made for the function, the most specific one where several are; vfio-pci
    /// where none is.
    pub fn best_for(&self, function: &PciFunction) -> &str {
        let device = alias(function);
        let matching = self.aliases.iter().filter(|alias| matches(&alias.pattern, &device));
        let best = matching.max_by(|one, other| {
            let by_name = || other.driver.cmp(&one.driver);
            specificity(&one.pattern).cmp(&specificity(&other.pattern)).then_with(by_name)
        });
        best.map_or(GENERIC.0, |alias| &alias.driver)
    }
}

/// The PCI driver in a module: as the loaded module says, else of the module's name, as all variants
/// in the kernel have it.
fn driver_of(reader: &mut Reader, module: &str) -> String {
    let drivers = reader.entries(&reader.root.module(module).join("drivers"));
    let named = drivers.iter().find_map(|name| name.strip_prefix("pci:"));
    named.unwrap_or(module).to_owned()
}

/// What sysfs has as a function's `modalias`, without its bus (drivers/pci/pci-sysfs.c,
/// `modalias_show`).
fn alias(function: &PciFunction) -> String {
    let [_, base, sub, interface] = function.class.to_be_bytes();
    format!(
        "v{:08X}d{:08X}sv{:08X}sd{:08X}bc{base:02X}sc{sub:02X}i{interface:02X}",
        function.vendor, function.device, function.subsystem_vendor, function.subsystem_device
    )
}

/// How much of a pattern is said in so many words.
fn specificity(pattern: &str) -> usize {
    pattern.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count()
}

/// Whether a shell pattern (`*`, `?`, `[0-9A]`) matches the whole text, as modprobe has it: in at most
/// their lengths' product of steps, whatever the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // Where to go on should what follows the last star not match: one byte further.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let here = text.get(seen).copied();
        match (pattern.get(at), here) {
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, seen));
                continue;
            }
            (None, None) => return true,
            (Some(_), Some(byte)) => {
                if let Some(length) = one(pattern.get(at..).unwrap_or_default(), byte) {
                    at += length;
                    seen += 1;
                    continue;
                }
            }
            _ => {}
        }
        match star {
            Some((after, from)) if from < text.len() => {
                (at, seen) = (after, from + 1);
                star = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}

/// The bytes of the pattern that stand for this one byte of text; `None` where they do not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => {
            let end = set.iter().position(|byte| *byte == b']')?;
            let mut set = set.get(..end)?;
            while let [first, rest @ ..] = set {
                let (last, rest) = match rest {
                    [b'-', last, rest @ ..] => (last, rest),
                    _ => (first, rest),
                };
                if (*first..=*last).contains(&byte) {
                    return Some(end + 2);
                }
                set = rest;
            }
            None
        }
        [literal, ..] if *literal == byte => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded::{Function, Tree};

    const NIC: &str = "0000:01:00.0";

    fn best(tree: &Tree) -> String {
        let root = tree.root();
        let mut reader = Reader::new(&root);
        let function = super::super::pci::read(&mut reader, NIC.parse().expect("an address"));
        Variants::read(&mut reader).best_for(&function.expect("the NIC")).to_owned()
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        let device = "v000015B3d0000101Esv00001AF4sd00000001bc02sc00i00";
        for pattern in [
            "*",
            "v000015B3d0000101Esv*sd*bc*sc*i*",
            "v*d*sv*sd*bc02sc*i*",
            "v000015B[0-3]d*",
            "v000015B[A3]d*",
            "v000015B?d0000101E*",
            "**v*i00",
        ] {
            assert!(matches(pattern, device), "{pattern}");
        }
        for pattern in [
            "",
            "v000015b3d0000101Esv*sd*bc*sc*i*",
            "v000015B[0-2]d*",
            "v000015B[d*",
            "v*d*sv*sd*bc03sc*i*",
            "v000015B3d0000101E",
            "*i001",
        ] {
            assert!(!matches(pattern, device), "{pattern}");
        }
        // No pattern takes long.
        assert!(!matches(&format!("{}x", "*0".repeat(120)), &"0".repeat(10_000)));
    }

    #[test]
    fn the_most_specific_variant_of_a_device_is_found_and_else_the_generic_driver() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        tree.add(Function::new(NIC, (0x15b3, 0x101e), 0x02_0000));
        assert_eq!(best(&tree), "vfio-pci", "a kernel without a list");
        let modules = "lib/modules/6.12.0-test";
        tree.file(
            &format!("{modules}/modules.alias"),
            "# Aliases extracted from modules themselves.\n\
             alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core\n\
             alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n\
             alias vfio_pci:v000015B3d*sv*sd*bc*sc*i* other_vfio_pci\n\
             alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci\n\
             alias vfio_pci:v00008086d*sv*sd*bc*sc*i* qat_vfio_pci\n\
             alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i0* ../../evil\n",
        );
        assert_eq!(best(&tree), "mlx5_vfio_pci");
        // The loaded module has the last word on its driver's name.
        tree.directory("sys/module/mlx5_vfio_pci/drivers/pci:mlx5-vfio-pci");
        assert_eq!(best(&tree), "mlx5-vfio-pci");
        // One that is part of the kernel, and yet more specific.
        tree.file(
            &format!("{modules}/modules.builtin.modinfo"),
            "vfio.license=GPL\0own_vfio_pci.alias=vfio_pci:v000015B3d0000101Esv*sd*bc02sc*i*\0",
        );
        assert_eq!(best(&tree), "own_vfio_pci");
    }

    #[test]
    fn a_list_that_makes_no_sense_is_bounded() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        tree.add(Function::new(NIC, (0x15b3, 0x101e), 0x02_0000));
        let list = "lib/modules/6.12.0-test/modules.alias";
        let long = "*".repeat(300);
        for text in [
            "alias\nalias \nalias vfio_pci:\nalias vfio_pci:[ x\n\0\0\n".to_owned(),
            format!("alias vfio_pci:{long} long_vfio_pci\n"),
            "alias vfio_pci:v0 x\n".repeat(MOST_ALIASES + 5),
        ] {
            tree.file(list, &text);
            assert_eq!(best(&tree), "vfio-pci");
        }
        tree.file("proc/sys/kernel/osrelease", "../../..\n");
        assert_eq!(best(&tree), "vfio-pci");
    }
}
