//! Who is built on a block device without a link that says so: a loop device on a raw disk, the
//! memory-compressing zram that writes back to one, and a disk that is served to other hosts.

use std::collections::BTreeMap;

use super::mounts::block_name;
use super::reader::Reader;

/// Holders by the name of the block device they are on.
pub(super) fn read(reader: &mut Reader, blocks: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for name in blocks {
        let class = reader.root.block_class().join(name);
        let backing = if name.starts_with("loop") {
            // A loop device on a file has the file's filesystem for a use (drivers/block/loop.c).
            reader.text(&class.join("loop/backing_file"))
        } else if name.starts_with("zram") {
            // "none" where there is none (Documentation/admin-guide/blockdev/zram.rst).
            reader.text(&class.join("backing_dev"))
        } else {
            None
        };
        add(reader, &mut found, backing.as_deref(), name);
    }
    add_targets(reader, &mut found);
    found
}

/// Namespaces that are served over NVMe-oF: the target opens disks without a claim
/// (drivers/nvme/target/configfs.c, io-cmd-bdev.c).
fn add_targets(reader: &mut Reader, found: &mut BTreeMap<String, Vec<String>>) {
    let subsystems = reader.root.sys("kernel/config/nvmet/subsystems");
    for subsystem in reader.entries(&subsystems) {
        let namespaces = subsystems.join(&subsystem).join("namespaces");
        for namespace in reader.entries(&namespaces) {
            let at = |attribute: &str| namespaces.join(&namespace).join(attribute);
            if reader.flag(&at("enable")).unwrap_or(false) {
                let backing = reader.text(&at("device_path"));
                add(reader, found, backing.as_deref(), &format!("NVMe target {subsystem}"));
            }
        }
    }
}

fn add(
    reader: &Reader,
    found: &mut BTreeMap<String, Vec<String>>,
    backing: Option<&str>,
    holder: &str,
) {
    if let Some(name) = backing.and_then(|path| block_name(reader, path)) {
        found.entry(name).or_default().push(holder.to_owned());
    }
}
